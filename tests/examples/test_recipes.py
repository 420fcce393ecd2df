"""The recipes train with the same bits as the scripts."""

import pytest
import torch

from learner.cli.commands import main
from learner.recipes.recipe import load_recipe
from learner.runs.running import run


def learner_of(path, *overrides):
    return run(load_recipe(path, overrides), runs=None)


def assert_same_bits(one, other):
    wanted, found = one.model.state_dict(), other.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert one.history.steps == other.history.steps


def test_the_recipe_of_the_article_ends_with_the_bits_of_the_loop_by_hand(load, examples, capsys):
    rmses, params = load("01_plain_loop").main()
    learn = learner_of(examples / "article.yaml")
    assert torch.equal(next(learn.model.parameters()).detach(), params)
    assert capsys.readouterr().out.splitlines()[-10:] == [f"RMSE: {rmse}" for rmse in rmses]


def test_the_recipe_of_the_article_runs_on_the_command_line_of_an_empty_folder(
    load, examples, tmp_path, capsys
):
    assert main(["run", str(examples / "article.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[9]] == ["RMSE: 74.96194346966999", "RMSE: 18.037850320630035"]
    assert (tmp_path / "runs" / "article-1" / "plot_snapshots.png").exists()


@pytest.mark.parametrize("name", ["MLP", "ConvNet"])
def test_the_recipe_of_the_digits_trains_with_the_bits_of_the_script(load, examples, capsys, name):
    example = load("digits")
    learn = example.make_learner(getattr(example, name))
    learn.fit(2)
    model = f"model={{use: 'digits_models.py:{name}'}}"
    assert_same_bits(learn, learner_of(examples / "digits.yaml", "fit.epochs=2", model))


def test_the_recipe_of_diabetes_trains_with_the_bits_of_the_script(load, examples, capsys):
    learn = load("diabetes").make_learner()
    learn.fit(2)
    assert_same_bits(learn, learner_of(examples / "diabetes.yaml", "fit.epochs=2"))


def test_the_recipe_of_the_users_own_model_trains_with_the_bits_of_its_script(load, examples, capsys):
    learn = load("my_model").make_learner()
    learn.fit(2)
    other = learner_of(examples / "my_recipe.yaml", "fit.epochs=2")
    assert_same_bits(learn, other)
    assert other.history[-1]["grad_norm"] > 0
