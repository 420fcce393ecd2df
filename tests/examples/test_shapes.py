"""The two scripts that docs/move_your_loop.md compares give the same numbers."""

import signal
from pathlib import Path

import pytest
import torch

N_EPOCHS, PATIENCE = 12, 1  # stops after four epochs
STEP = 27  # in the third epoch of 13 steps


@pytest.fixture
def scripts(load, capsys):
    pytest.importorskip("tensorboard")
    return load("shapes_loop"), load("shapes_learner")


def assert_same(model, rows, learn, folder):
    names = rows[0].keys()
    assert [{name: row[name] for name in names} for row in learn.history.rows] == rows
    weights, found = model.state_dict(), learn.model.state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    best = torch.load(Path(folder, "best.pt"))["model"]
    assert all(torch.equal(best[name], weights[name]) for name in weights)


def interrupting(schedule):
    """The schedule, which presses Ctrl-C once."""
    pressed = []

    def press(step, **settings):
        if step == STEP and not pressed:
            pressed.append(step)
            signal.raise_signal(signal.SIGINT)
        return schedule(step, **settings)

    return press


def test_both_scripts_give_the_same_numbers_whether_interrupted_or_not(scripts, monkeypatch):
    by_hand, composed = scripts
    model, rows = by_hand.main("loop", N_EPOCHS, PATIENCE)
    assert 3 <= len(rows) < N_EPOCHS
    learn = composed.main("learner", N_EPOCHS, PATIENCE)
    assert_same(model, rows, learn, "learner")

    for script, folder in ((by_hand, "loop again"), (composed, "learner again")):
        with monkeypatch.context() as patched:
            patched.setattr(script, "warmup_cosine", interrupting(script.warmup_cosine))
            with pytest.raises(KeyboardInterrupt):
                script.main(folder, N_EPOCHS, PATIENCE)
    _, again = by_hand.main("loop again", N_EPOCHS, PATIENCE)
    assert again == rows
    assert_same(model, rows, composed.main("learner again", N_EPOCHS, PATIENCE), "learner again")


def test_both_scripts_write_the_same_numbers_for_tensorboard(scripts):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    by_hand, composed = scripts
    by_hand.main("loop", 2)
    composed.main("learner", 2)
    loop, learner = (accumulators.EventAccumulator(folder).Reload() for folder in ("loop", "learner"))
    for name in loop.Tags()["scalars"]:
        points = [[(point.step, point.value) for point in each.Scalars(name)] for each in (loop, learner)]
        assert points[0] == points[1], name
