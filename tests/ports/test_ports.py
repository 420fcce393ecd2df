"""Every port of a public training script agrees with its hand-written loop."""

from __future__ import annotations

import pytest
import torch
from ports import harness

from callbacks import LeanStep, WholeStep


@pytest.fixture(scope="module", params=harness.NAMES)
def port(request: pytest.FixtureRequest) -> harness.Port:
    return harness.load(request.param)


@pytest.fixture(scope="module")
def trained(port: harness.Port) -> dict[str, torch.Tensor]:
    return harness.train(port)


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_port_gives_the_bits_of_the_hand_written_loop(port, trained):
    assert_same_bits(trained, port.by_hand())


def test_a_port_is_trained_by_its_fit(port, trained):
    before = port.weights(port.make_learner())
    assert any(
        not torch.equal(before[name], after) for name, after in trained.items() if after.is_floating_point()
    )


def test_a_port_passes_check(port, capsys):
    report = port.make_learner().check()
    assert report.ok, capsys.readouterr().out


def test_a_killed_port_resumes_with_the_same_bits(port, tmp_path):
    assert_same_bits(harness.train_killed_and_resumed(port, tmp_path), port.by_hand())


@pytest.mark.parametrize("fast", [LeanStep, WholeStep])
def test_a_port_with_a_fast_step_trains_the_same_or_is_refused_by_name(port, fast):
    step = WholeStep("eager") if fast is WholeStep else LeanStep()
    if fast.__name__ in port.refused:
        with pytest.raises(ValueError, match=port.refused[fast.__name__]):
            harness.train(port, step)
        return
    trained, by_hand = harness.train_with_fallback(port, step), port.by_hand()
    assert trained.keys() == by_hand.keys()
    for name, tensor in by_hand.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", harness.NAMES)
def test_a_port_has_its_page_in_the_gallery(name):
    page = f"{name.replace('.', '/')}.md"
    assert (harness.GALLERY / page).is_file()
    assert page in (harness.GALLERY / "index.md").read_text(encoding="utf-8")
