"""The article as a hand-written loop, a composition and a recipe: the same digits, the same bits."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from matplotlib import image

RMSES = [
    74.96194346966999,
    36.43029986215973,
    22.692756149058336,
    19.006926227796704,
    18.225665028268686,
    18.073917779669408,
    18.04494798288646,
    18.039351786874853,
    18.03818276871748,
    18.037850320630035,
]
LINES = [f"RMSE: {rmse}" for rmse in RMSES]


def test_the_loop_by_hand_prints_the_rmses_of_the_article_to_the_last_digit(load, capsys):
    rmses, _ = load("01_plain_loop").main()
    assert rmses == RMSES
    assert capsys.readouterr().out.splitlines() == LINES


def test_the_composition_prints_the_rmses_of_the_article_to_the_last_digit(load, capsys):
    load("02_article").main()
    assert capsys.readouterr().out.splitlines() == LINES


def test_the_weights_of_loop_and_composition_are_equal_bit_for_bit(load):
    _, params = load("01_plain_loop").main()
    learn = load("02_article").main()
    assert torch.equal(next(learn.model.parameters()).detach(), params)


def test_the_picture_of_the_article_is_12_by_3_inches_at_150_dots(load, tmp_path):
    load("02_article").main(tmp_path / "six.png")
    assert image.imread(tmp_path / "six.png").shape[:2] == (3 * 150, 12 * 150)


def test_the_composition_runs_as_a_script_from_another_folder(examples, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(examples.parent)}
    command = [sys.executable, "-W", "error", str(examples / "02_article.py")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == LINES
    assert (tmp_path / "article.png").exists()


def test_a_low_rate_is_slow_a_good_one_converges_and_a_high_one_diverges(load, tmp_path):
    rmses = load("03_learning_rates").main(tmp_path / "rates.png")
    low, good, high = (values.tolist() for values in rmses.values())
    assert good[:10] == pytest.approx(
        RMSES, rel=1e-14
    )  # on some processors torch's root has another last digit
    assert 0.85 * low[0] < low[-1] < low[0]
    assert good[-1] < 0.25 * good[0]
    assert all(after > before for before, after in itertools.pairwise(high))
    assert (tmp_path / "rates.png").exists()


def test_below_the_limit_that_check_prints_the_loss_falls_and_above_it_grows(load):
    rates = load("03_learning_rates")
    report = rates.make_learner(1e-5).check()
    limit = largest_stable_rate()
    assert f"{limit:.3g}" == "3.54e-05"
    assert f"up to {limit:.3g}" in report.facts["stable step"]
    assert not report.warnings
    assert rates.make_learner(1.01 * limit).check().warnings
    below, above = rates.train(0.99 * limit)[0], rates.train(1.01 * limit)[0]
    assert below[-1] < below[0]
    assert above[-1] > above[0]


def largest_stable_rate() -> float:
    """The rate 2 / c, where c is the largest eigenvalue of the second derivatives of the loss."""
    time = torch.arange(0, 20).double()
    powers = torch.stack([time**2, time, torch.ones(20).double()], dim=1)
    return 2 / torch.linalg.eigvalsh(2 * powers.T @ powers / 20).max().item()
