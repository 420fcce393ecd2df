"""Profile: which steps are in the trace, and that no profiler is left running."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from tiny import line_batches
from torch import nn
from torch.nn import functional as F

from callbacks import Callback, LearnerWarning, Profile
from learner import Data, Learner


class Mark(Callback):
    """A callback that marks each batch in the trace."""

    def before_batch(self, learn):
        kind = "train" if learn.training else "valid"
        with torch.profiler.record_function(f"mark {kind} {learn.n_samples}"):
            pass


def make(*callbacks, n_batches: int = 6) -> Learner:
    torch.manual_seed(0)
    data = Data(line_batches(n_batches), line_batches(2))
    return Learner(nn.Linear(1, 1), data, F.mse_loss, partial(torch.optim.SGD, lr=0.1), callbacks)


def names_in(path) -> list[str]:
    events = json.loads(path.read_text())["traceEvents"]
    return [each["name"] for each in events if each.get("cat") == "user_annotation"]


def test_the_trace_has_the_steps_that_were_asked_for(tmp_path, capsys):
    callback = Profile(tmp_path / "traces", n_steps=2, wait=1, warm_up=1)
    learn = make(callback, Mark())
    learn.fit(1)
    n_items = learn.n_samples // 6
    assert callback.path == tmp_path / "traces" / "steps-3-4.json"
    names = names_in(callback.path)
    marks = [name for name in names if name.startswith("mark")]
    assert set(marks) == {f"mark train {n * n_items}" for n in (2, 3)}
    assert len(marks) == 2
    for operation in ("place", "forward", "compute_loss", "backward", "step", "zero_grad"):
        assert names.count(operation) == 2
    assert callback.table in capsys.readouterr().out
    assert not torch.autograd._profiler_enabled()


def test_steps_may_lie_in_two_epochs(tmp_path):
    callback = Profile(tmp_path, n_steps=3, wait=0, warm_up=0, top=0)
    make(callback, Mark(), n_batches=2).fit(2)
    marks = [name.split()[1] for name in names_in(callback.path) if name.startswith("mark")]
    assert sorted(marks) == ["train"] * 3 + ["valid"] * 2


def test_the_table_has_the_top_by_own_time(tmp_path, capsys):
    callback = Profile(tmp_path, n_steps=2, wait=0, warm_up=0, top=3)
    make(callback).fit(1)
    lines = callback.table.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[1:]]
    assert shares == sorted(shares, reverse=True)
    assert lines[1] in capsys.readouterr().out


def test_the_same_numbers_with_and_without(tmp_path):
    plain, profiled = make(), make(Profile(tmp_path, top=0))
    plain.fit(2)
    profiled.fit(2)
    assert torch.equal(plain.model.weight, profiled.model.weight)


@pytest.mark.parametrize(("fail_at", "file"), [(1, None), (2, None), (3, None), (5, "steps-4-5.json")])
def test_an_error_leaves_no_profiler_running_and_what_was_recorded(tmp_path, fail_at, file):
    class Fails(Callback):
        n = 0

        def before_step(self, learn):
            self.n += 1
            if self.n == fail_at + 1:
                raise ZeroDivisionError

    callback = Profile(tmp_path, n_steps=3, wait=1, warm_up=2, top=0)
    learn = make(callback, Fails())
    with pytest.raises(ZeroDivisionError):
        learn.fit(1)
    assert not torch.autograd._profiler_enabled()
    assert [path.name for path in tmp_path.iterdir()] == ([file] if file else [])
    learn.fit(1)
    assert callback.path == tmp_path / "steps-4-6.json"


def test_a_fit_that_is_too_short_is_reported(tmp_path):
    with pytest.warns(LearnerWarning, match="recorded nothing: the fit ended after 2 training batches"):
        make(Profile(tmp_path), n_batches=2).fit(1)
    assert list(tmp_path.iterdir()) == []


def test_a_profiler_of_the_users_own_is_reported(tmp_path):
    learn = make(Profile(tmp_path))
    with (
        torch.profiler.profile(acc_events=True),
        pytest.raises(RuntimeError, match="another profiler is running"),
    ):
        learn.fit(1)
    with pytest.raises(RuntimeError, match="two callbacks profile"):
        make(Profile(tmp_path), Profile(tmp_path, name="other")).fit(1)
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize(
    "settings",
    [{"n_steps": 0}, {"n_steps": 2.0}, {"wait": -1}, {"warm_up": True}, {"top": "all"}],
    ids=str,
)
def test_settings_that_cannot_be_used_are_refused(settings):
    with pytest.raises(ValueError, match=f"Profile\\({next(iter(settings))}="):
        Profile("profile", **settings)


def test_an_invalid_folder_is_refused(tmp_path):
    with pytest.raises(TypeError, match="the name of a folder"):
        Profile(3)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="pass a folder"):
        make(Profile(tmp_path / "file")).fit(1)
