"""Finds the program for a batch, or makes it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map_only

from callbacks.core.contract import LearnerProtocol
from callbacks.core.modules import loss_parameters
from callbacks.core.output import print_line
from callbacks.core.warning import warn
from callbacks.fast.fallback_reasons import Unfit, UnfitNow
from callbacks.fast.guarded_program import N_PROVEN, Backend, Program, tensors_of
from callbacks.fast.handed_over import Pending
from callbacks.fast.lean_optimizer import set_grad_enabled
from callbacks.fast.program_proof import N_TIMED, Proof, kind_of
from callbacks.fast.unguarded import check_hooks, is_hooked
from callbacks.place.layout import GraphMemory

N_SETTINGS = 8  #: programs for one kind of batch in a fit; with more, a setting changes all the time
N_TRIES = 3  #: batches in a row without a program, for a reason that may pass
UNCOMPILED = ("eager", "aot_eager")  #: backends that generate no code, so nobody expects speed


class Programs:
    """The programs of a `WholeStep` in a fit.

    Args:
        backend: what compiles.
        n_kinds: how many kinds of batches get a program.
        graphs: are programs recorded as CUDA graphs?
        earlier: those of the last fit. Compiling takes seconds, so those that it has used are used again,
            after a new comparison with the ordinary step.
    """

    def __init__(self, backend: Backend, n_kinds: int, *, graphs: bool, earlier: Programs | None = None):
        self.backend, self.n_kinds, self.graphs = backend, n_kinds, graphs
        self._all: list[Program] = []
        self._ratios: list[float] = N_TIMED * [1.0] if backend in UNCOMPILED else []
        if earlier is not None and (earlier.backend, earlier.graphs) == (backend, graphs):
            self._ratios = earlier._ratios
            self._all = [each for each in earlier._all if each.n_unproven < N_PROVEN]
        for each in self._all:
            each.n_unproven = N_PROVEN
        self._n_made: Counter[str] = Counter()  # by kind
        self._n_failed = 0
        self._cannot_hook = self._was_reported = False
        self.seconds = 0.0
        self.rest()

    def rest(self) -> None:
        """End a fit: hold nothing of the learner."""
        self.here: dict[str, Any] = {"model": None, "loss_func": None}
        self._memory = GraphMemory()
        self._extra: list[Tensor] = []  # parameters outside model and loss
        for each in self._all:
            each.trained = None

    def clear(self) -> None:
        """Drop all programs."""
        self._all = []
        self.rest()

    def run(self, learn: LearnerProtocol, mixed: str, kinds: list[str]) -> Pending | None:
        """The step of this batch; None if the ordinary one must be taken.

        Args:
            learn: the learner, with a batch.
            mixed: the type of device whose autocast `MixedPrecision` has switched on, or "".
            kinds: those that have a program, as text; a new one is added.

        Raises:
            Unfit: the ordinary step must be taken from now on.
            RuntimeError: the program computes other numbers than the ordinary step.
        """
        here = self.here
        if learn.model is not here["model"] or learn.loss_func is not here["loss_func"]:
            here = self._take_up(learn)
        here["inputs"], here["targets"], here["mixed"] = learn.inputs, learn.targets, mixed
        check_hooks(here["params"], learn.model)
        if self.graphs:
            self._memory.begin_step(learn)
        before = torch.is_grad_enabled()
        set_grad_enabled(False)
        try:
            for program in self._all:
                if program.fits(here):
                    break
            else:
                return self._make(learn, kinds)
            if program.n_unproven or len(self._ratios) < N_TIMED:
                return self._prove(learn, program) if self._admits(learn, kinds) else None
            outs = program.call(*here.values())
        finally:
            set_grad_enabled(before)
        self._n_failed = 0
        return self._pending(program, outs)

    def _pending(self, program: Program, outs: Any) -> Pending:
        preds, loss, grads = outs
        if program.trained is None:
            program.trained = [each for each in self.here["params"] if each.requires_grad]
        if program.copies:
            grads = [each if each is None else each.clone() for each in grads]
        if self.graphs:
            preds, loss = tree_map_only(Tensor, Tensor.clone, (preds, loss))
        preds = as_leaf(preds) if type(preds) is Tensor else tree_map_only(Tensor, as_leaf, preds)
        return Pending(program, self.here, preds, loss.requires_grad_(), grads)

    def _take_up(self, learn: LearnerProtocol) -> dict[str, Any]:
        """Collect the present parameters of the model, the loss and what they reach."""
        found = [*learn.model.parameters(), *loss_parameters(learn).values(), *self._extra]
        params = [*{id(each): each for each in found}.values()]
        mixed = self.here.get("mixed", "")
        self.here = {"model": learn.model, "loss_func": learn.loss_func, "params": params}
        self.here |= {"inputs": learn.inputs, "targets": learn.targets, "mixed": mixed}
        for each in self._all:
            each.trained = None
        return self.here

    def _make(self, learn: LearnerProtocol, kinds: list[str]) -> Pending | None:
        """Make a program, and take its first step."""
        check_hooks(self._take_up(learn)["params"], learn.model)
        hooked, kind = is_hooked(learn.model), kind_of_batch(learn)
        if hooked and self._cannot_hook:
            return self._fail(Unfit(f"hooks are registered on {hooked}, and a program cannot call them"))
        # the first batch makes lazy parameters
        if any(map(is_lazy, self.here["params"])) or not self._admits(learn, kinds):
            return None
        if self._n_made[kind] >= N_SETTINGS:
            what = self._all[-1].failed_guard(self.here)
            raise Unfit(f"`{what}` has changed {N_SETTINGS} times, and each value needs its own program")
        report_compiling(learn, self.backend, kind)
        program = Program(self.backend, graphs=self.graphs)
        try:
            pending = self._prove(learn, program, is_new=True)
        except Unfit as reason:
            self._cannot_hook = self._cannot_hook or bool(hooked)
            if hooked or isinstance(reason, UnfitNow):
                return self._fail(reason)
            raise
        if pending is None:
            self._extra += check_missing(program.missing, self.here)
            return self._make(learn, kinds)
        self._n_failed = 0
        self._n_made[kind] += 1
        self.seconds += program.seconds
        self._all.append(program)
        return pending

    def _prove(self, learn: LearnerProtocol, program: Program, *, is_new: bool = False) -> Pending | None:
        """Take one of a program's first steps, and compare it with the ordinary one."""
        program.trained = [each for each in self.here["params"] if each.requires_grad]
        outs = Proof(program, learn, self.here, self._ratios).run(is_new=is_new)
        return None if outs is None else self._pending(program, outs)

    def _fail(self, reason: Unfit) -> None:
        """Take an ordinary step now; after the third failure in a row, always."""
        self._n_failed += 1
        if self._n_failed >= N_TRIES:
            raise reason

    def _admits(self, learn: LearnerProtocol, kinds: list[str]) -> bool:
        """May this kind of batch have a program?"""
        kind = kind_of_batch(learn)
        if kind not in kinds and len(kinds) < self.n_kinds:
            kinds.append(kind)
        if kind not in kinds and not self._was_reported:
            self._was_reported = True
            warn(
                f"WholeStep: batch {learn.batch_idx} of epoch {learn.epoch} is {kind}, and {self.n_kinds} "
                f"other kinds already have a program ({'; '.join(kinds)}). It uses the ordinary step, and "
                "so will further new kinds. Pad batches to a few lengths, drop the last batch, or allow "
                "more kinds with WholeStep(n_programs=...)."
            )
        return kind in kinds


def as_leaf(tensor: Tensor) -> Tensor:
    """The tensor without its graph, so that a term of the loss that is computed from it is noticed."""
    found = tensor.detach()
    return found.requires_grad_() if found.is_floating_point() else found


def check_missing(missing: list[Tensor], here: dict[str, Any]) -> list[Tensor]:
    """The parameters that the loss reaches, other than those of model and loss."""
    batch = {*map(id, tensors_of(here["inputs"], here["targets"]))}
    if any(id(each) in batch or not each.is_leaf for each in missing):
        raise Unfit("a tensor of the batch, or one that was computed before, requires gradients")
    return missing


def kind_of_batch(learn: LearnerProtocol) -> str:
    """Types and shapes of the tensors of a batch."""
    return ", ".join(map(kind_of, tensors_of(learn.inputs, learn.targets)))


def report_compiling(learn: LearnerProtocol, backend: Backend, kind: str) -> None:
    """Print a line before the compiler starts, where `Progress` is shown."""
    is_slow = isinstance(backend, str) and backend != "eager"
    if is_slow and any(each.shows_progress for each in learn.callbacks):
        print_line(f"WholeStep is compiling for {kind}; this takes seconds to minutes", flush=True)
