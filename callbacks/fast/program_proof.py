"""Compares what a program computes, and its time, with the same step without a compiler."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from callbacks.core import draws
from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import loss_tensors
from callbacks.fast.fallback_reasons import Unfit, unknown
from callbacks.fast.guarded_program import Program, step, tensors_of
from callbacks.fast.refused_callbacks import check_owned
from callbacks.model.named import named_tensors
from callbacks.record.timer import wait_for

#: How far a program's numbers may be from the ordinary ones, as a share of the largest in a tensor: sums are
#: computed in another order, and half precision is rounded at other places.
SHARES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}
#: A gradient may also be off by this share of the largest one: where it should be 0 it is rounding alone.
FLOOR = 0.05
#: Weights are moved by `ROUNDINGS` units of rounding, `N_MOVED` times. A program may be off by `TIMES` the
#: largest change that this makes in the ordinary step's numbers.
ROUNDINGS, N_MOVED, TIMES = 8, 4, 10
#: Steps that are timed in pairs with the ordinary step, and the largest ratio that the median may have.
N_TIMED, SLOWER = 15, 1.1
#: Why nothing can be compared with a step.
UNLIKE = (
    "the ordinary step itself computes different numbers each time it runs with the same weights and "
    "random state: the forward pass or the loss draws from its own generator, reads a clock, or counts "
    "its calls"
)

Found = dict[str, Tensor]  #: what a step computes, by the names that messages use


class Proof:
    """Runs a program, and the ordinary step to compare.

    Args:
        program: to be compared.
        learn: the learner, with a batch.
        here: the arguments of the program by name.
        ratios: the program's time per time of the ordinary step; a step that is not compared adds one.
    """

    def __init__(self, program: Program, learn: LearnerProtocol, here: dict[str, Any], ratios: list[float]):
        self.program, self.learn, self.here, self.ratios = program, learn, here, ratios
        self.before = draws.take()

    def run(self, *, is_new: bool = False) -> Any:
        """What the program computes, after a comparison; None if it must be made with more parameters.

        Raises:
            Unfit: the ordinary step must be taken: this one cannot become a program, or that is slower.
            RuntimeError: the program computes other numbers than the ordinary step.
        """
        program, changed = self.program, {}
        try:
            if is_new:
                outs, seconds = program.run_first(self.here), 0.0
                if outs is None:
                    return None
            else:
                program.keep(program.read(self.here))
                outs, seconds = self._timed(lambda *args: program.fits(self.here) and program.call(*args))
            after, changed = draws.take(), changed_of(program.kept)
            if program.n_unproven:
                self._compare(self._named(outs))
                check_owned(self.learn, [*program.read(self.here), *(program.trained or ())])
            else:
                self._undo()
                self.ratios.append(seconds / max(self._timed(step)[1], 1e-9))
                check_speed(self.ratios)
        finally:
            self._undo()
        for tensor, value in changed.values():
            tensor.copy_(value)
        draws.put(after)
        program.copies = program.copies or shares_memory(outs, self.here)
        program.n_unproven, program.kept = max(0, program.n_unproven - 1), []
        return outs

    def _timed(self, call: Callable[..., Any]) -> tuple[Any, float]:
        """What a step computes, and its seconds; waits for the device."""
        wait_for(self.learn.device)
        begun = time.perf_counter()
        outs = call(*self.here.values())
        wait_for(self.learn.device)
        return outs, time.perf_counter() - begun

    def _undo(self) -> None:
        """Restore what the program, or the ordinary step, has changed."""
        for tensor, copied in self.program.kept:
            if not torch.equal(tensor, copied):  # one that is expanded cannot be written to
                tensor.copy_(copied)
        draws.put(self.before)

    def _ordinary(self, call: Callable[..., Any] = step) -> Found:
        self._undo()
        return self._named(call(*self.here.values()))

    def _named(self, outs: Any) -> Found:
        """Copies of all that a step has computed, by name."""
        preds, loss, grads = outs
        found, names = {"the loss": loss}, names_of(self.learn)
        for number, each in enumerate(pytree.tree_leaves(preds)):
            if isinstance(each, Tensor):
                found[f"tensor {number} of the model's output"] = each
            elif not isinstance(each, (int, float, str, bool, type(None))):
                raise Unfit(unknown(each))
        for number, (param, each) in enumerate(zip(self.program.trained or (), grads, strict=True)):
            if each is not None:
                found[f"the gradient of {names.get(param, number)!r}"] = each
        for number, (tensor, value) in changed_of(self.program.kept).items():
            found[f"the buffer {names.get(tensor, number)!r}"] = value
        return {name: each.detach().clone() for name, each in found.items()}

    def _compare(self, found: Found) -> None:
        learn = self.learn
        wanted = self._ordinary()
        check_draws(self.before, draws.take())
        coarse = torch.bfloat16 if self.here["mixed"] else None
        if not difference(found, wanted, coarse, {}):
            return
        if difference(self._ordinary(), wanted, coarse, {}):
            raise Unfit(UNLIKE)
        problem = difference(found, wanted, coarse, self._slacks(wanted))
        if problem:
            raise RuntimeError(
                f"WholeStep: in batch {learn.batch_idx} of epoch {learn.epoch} {problem}. The program and "
                "the ordinary step compute different results, which were discarded. Either the step "
                "reads something that WholeStep cannot see, such as a file: make it a buffer or an "
                "attribute of the model. Or the compiler has a bug: use WholeStep('aot_eager'), which "
                "generates no code, or leave WholeStep out."
            )

    def _slacks(self, wanted: Found) -> dict[str, float]:
        """How far each number may be off because the ordinary step depends on rounding.

        Among a hundred thousand activations a few are 0 up to rounding, and pass a ReLU in one step but not
        in the other; in a deep network rounding may grow.
        """
        draw, found = torch.Generator().manual_seed(0), dict.fromkeys(wanted, 0.0)
        weights = [(each, each.detach().clone()) for each in self.program.trained or ()]
        self.program.kept += weights  # they are restored as everything else

        def moved(*args: Any) -> Any:
            for each, still in weights:
                size = torch.empty(each.shape, dtype=torch.float64).uniform_(-1, 1, generator=draw).sign()
                each.copy_(still * (1 + ROUNDINGS * torch.finfo(each.dtype).eps * size).to(still))
            return step(*args)

        for _ in range(N_MOVED):
            for name, each in self._ordinary(moved).items():
                if name in wanted and each.numel():
                    gap = (each.double() - wanted[name].double()).abs().nan_to_num(0.0, posinf=0.0)
                    found[name] = max(found[name], TIMES * gap.max().item())
        return found


def names_of(learn: LearnerProtocol) -> dict[Tensor, str]:
    """The names of parameters and buffers, for messages."""
    named = {**loss_tensors(learn), **named_tensors(learn.model)}
    return {each: name for name, each in named.items()}


def changed_of(kept: list[tuple[Tensor, Tensor]]) -> dict[int, tuple[Tensor, Tensor]]:
    """The tensors that have changed, each with a copy of its new value, by their position."""
    return {
        number: (each, each.detach().clone())
        for number, (each, before) in enumerate(kept)
        if not torch.equal(each, before)
    }


def check_speed(ratios: list[float]) -> None:
    """Refuse a program that is slower than the ordinary step, once enough steps were timed."""
    ratio = median(ratios)
    if len(ratios) == N_TIMED and ratio > SLOWER:
        raise Unfit(
            f"the program is slower: it takes {ratio:.2f} times as long as the ordinary step (the median of "
            f"{N_TIMED} steps)"
        )


def check_draws(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse random numbers of Python or NumPy, which a program would draw only once."""
    for name in ("python", "numpy"):
        if name in before and name in after and draws.differ(name, before[name], after[name]):
            raise Unfit(f"the forward pass or the loss draws random numbers with {name}")


def difference(found: Found, wanted: Found, coarse: Any, slacks: dict[str, float]) -> str:
    """The first tensor that is further off than rounding explains, in words, or ""."""
    if found.keys() != wanted.keys():
        name = sorted(found.keys() ^ wanted.keys())[0]
        return f"{name} is computed only by the program or only by the ordinary step"
    sizes = [largest(each) for name, each in wanted.items() if name.startswith("the gradient")]
    for name, right in wanted.items():
        share, slack = SHARES.get(coarse or right.dtype, 0.0), slacks.get(name, 0.0)
        if name.startswith("the gradient"):
            slack += share * FLOOR * max(sizes)
        text = compare(found[name], right, share, slack)
        if text:
            return f"{name} is {text}"
    return ""


def compare(found: Tensor, wanted: Tensor, share: float, slack: float) -> str:
    """How one tensor differs, in words; NaN equals NaN."""
    if found.shape != wanted.shape or found.dtype is not wanted.dtype:
        return f"{kind_of(found)}, not {kind_of(wanted)}"
    if found.is_meta or not found.numel():  # on the meta device there are no numbers
        return ""
    allowed = share * largest(wanted) + slack
    bad = ~torch.isclose(found.double(), wanted.double(), rtol=0.0, atol=allowed, equal_nan=True)
    if not bad.any():  # waits for the device, in the first steps of a program
        return ""
    one, other = found[bad][0].item(), wanted[bad][0].item()
    return f"wrong in {int(bad.sum())} of {bad.numel()} numbers, such as {one:.6g} instead of {other:.6g}"


def largest(tensor: Tensor) -> float:
    """The largest absolute value of the finite numbers in it; 0 if there are none."""
    if not tensor.numel() or tensor.is_meta:
        return 0.0
    return torch.where(tensor.isfinite(), tensor, 0.0).double().abs().max().item()


def shares_memory(outs: Any, here: dict[str, Any]) -> bool:
    """Does a gradient share memory with another tensor?"""
    preds, loss, grads = outs
    places = [place_of(each) for each in grads if each is not None and each.numel()]
    others = map(place_of, tensors_of(preds, loss, *here.values()))
    return len({*places}) < len(places) or not {*places}.isdisjoint(others)


def place_of(tensor: Tensor) -> int:
    """The address of its memory."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def kind_of(tensor: Tensor) -> str:
    """Type and shape as text, as `float32[3, 4]`."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
