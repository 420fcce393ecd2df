"""The examples beyond the article train as far as their docstrings say."""

import pytest
import torch

from callbacks import Checkpoint, Metrics, Recorder, StopAfter, ZeroGrad

QUIET = (ZeroGrad, Metrics, Recorder)


def test_the_digits_are_told_apart_by_both_models(load):
    accuracies = load("digits").main()
    assert accuracies["MLP"] >= 0.97
    assert accuracies["ConvNet"] >= 0.98


def test_on_diabetes_the_network_is_as_good_as_a_straight_line_and_no_better(load):
    scores = load("diabetes").main()
    network, line = scores["network"], scores["line"]
    assert 0.42 < network["valid_r2"] < 0.50
    assert 0.47 < line["valid_r2"] < 0.49
    assert abs(network["valid_rmse"] - line["valid_rmse"]) < 0.03
    assert abs(network["valid_mae"] - line["valid_mae"]) < 0.03


def test_the_users_own_model_classifies_the_spirals_and_its_callback_measures(load, tmp_path):
    learn = load("my_model").main(tmp_path / "spirals.png")
    assert learn.history[-1]["valid_accuracy"] >= 0.97
    assert all(0 < norm < 10 for norm in learn.history["grad_norm"])
    assert (tmp_path / "spirals.png").exists()


def test_the_norm_that_the_users_callback_measures_is_that_of_the_largest_gradient(load):
    example = load("my_model")
    learn = example.make_learner(callbacks=[example.GradientNorm()])
    model = example.SpiralNet()
    model.load_state_dict(learn.model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    norms = []
    for points, classes in example.spirals().train:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(points), classes).backward()
        norms.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm().item())
        optimizer.step()
    learn.fit(1)
    assert abs(learn.history[-1]["grad_norm"] - max(norms)) < 1e-5 * max(norms)


def test_the_gan_makes_pictures_like_the_real_ones(load):
    before, after = load("gan").main(20)
    assert after < 0.6 * before


def test_the_gan_and_its_critic_resume_with_the_same_bits(load, tmp_path):
    example = load("gan")
    whole = example.make_learner(Checkpoint(tmp_path / "whole", "10 steps"), defaults=QUIET)
    whole.fit(2)
    interrupted = example.make_learner(
        Checkpoint(tmp_path / "resumed", "10 steps"), StopAfter("25 steps"), defaults=QUIET
    )
    interrupted.fit(2)
    (tmp_path / "resumed" / "step-000000025.pt").unlink()
    again = example.make_learner(
        Checkpoint(tmp_path / "resumed", "10 steps"), StopAfter("99 steps"), defaults=QUIET
    )
    again.fit(2, resume="must")
    assert again.global_step == whole.global_step
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)
    critics = [learn.callbacks[example.Critic].network.parameters() for learn in (again, whole)]
    assert all(torch.equal(one, other) for one, other in zip(*critics, strict=True))


def test_the_contrastive_model_finds_neighbours_of_one_class(load):
    before, after = load("contrastive").main(30)
    assert before < 0.945
    assert after > 0.955


def test_a_model_of_hugging_face_trains_as_it_is(load):
    pytest.importorskip("transformers")
    example = load("hugging_face")
    learn = example.make_learner()
    learn.fit(15)
    assert learn.history[0]["train_loss"] > 2.5
    assert learn.history[-1]["train_loss"] < 2.0
    assert example.write(learn, "This is", 5).startswith("This is")


def test_the_model_of_text_knows_the_rhyme_by_heart(load, capsys):
    learn = load("text").main()
    assert learn.history[0]["train_loss"] > 1.5
    assert learn.history[-1]["train_loss"] < 0.12
    assert "that waits in the mill" in capsys.readouterr().out
