"""`verify_resume` finds trainings that resume with the same bits, and those that do not."""

from __future__ import annotations

import pytest
import torch
from upper.verified import broken, sound, unsound, with_workers

from learner import verify_resume
from learner.recipes.recipe import load_recipe
from learner.recipes.verify_child import digest
from learner.runs.running import verify_recipe


def test_a_training_ends_with_the_same_bits_wherever_it_is_killed():
    report = verify_resume(sound, 2, n_kills=3, every="2 steps")
    assert report.ok
    assert len(report.rows) == 4
    assert all(row.n_repeated <= 2 * max(1, len(row.kills)) for row in report.rows)
    assert "4 of 4 runs of 10 steps ended with the same bits" in str(report)
    assert all(len(line) <= 100 for line in str(report).splitlines())


def test_a_callback_that_does_not_save_its_state_is_found():
    report = verify_resume(unsound, 2, n_kills=3, every="2 steps")
    assert not report.ok
    assert any({"weights", "history"} <= set(row.differing) for row in report.rows)
    assert report.rows[0].ok  # killed at the first moment, it starts from the beginning


def test_the_error_of_a_failing_training_is_reported():
    with pytest.raises(RuntimeError, match=r"(?s)the training failed \(exit code 1\).*no such file"):
        verify_resume(broken, 1)


def test_a_learner_that_cannot_be_passed_to_another_process_is_refused():
    with pytest.raises(ValueError, match="at the top level of a module"):
        verify_resume(lambda: sound(), 1)


@pytest.mark.parametrize("n_kills", [1, 0, True, "10"])
def test_a_wrong_number_of_kills_is_refused(n_kills):
    with pytest.raises(ValueError, match="n_kills="):
        verify_resume(sound, 1, n_kills=n_kills)


def test_a_recipe_is_verified(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "seed: 1\ndata: {use: article}\nmodel: {use: Linear, in_features: 20, out_features: 20}\nloss: mse\n"
        "optimizer: {use: SGD, lr: 1e-5}\nfit: {epochs: 3}\n"
    )
    assert verify_recipe(load_recipe(tmp_path / "recipe.yaml"), n_kills=2).ok


def test_a_digest_differs_if_one_bit_differs():
    assert digest([0.0]) != digest([-0.0])
    assert digest({"a": torch.tensor([1.0])}) != digest({"a": torch.tensor([1.0 + 2**-23])})
    assert digest([[1], [2]]) != digest([[1, 2], []])


def test_workers_of_a_loader_exit_when_their_process_is_killed():
    """The workers are forked from the process, not from a server that outlives it, as `usual` decides."""
    assert verify_resume(with_workers, 1, n_kills=2, every="2 steps").ok
