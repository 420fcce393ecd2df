"""Finds or makes the program of a batch, and proves it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from callbacks.core import draws
from callbacks.core.modules import loss_tensors
from callbacks.core.warning import warn
from callbacks.fast.lean_proof import Unfit
from callbacks.whole.binding import Binding
from callbacks.whole.executed import Executed
from callbacks.whole.graph import Backend, make_program
from callbacks.whole.kinds import check_draws, key_of
from callbacks.whole.pending import Pending, change_buffers, pending_of, run
from callbacks.whole.program import Program, Step, Unused
from callbacks.whole.proof import (
    Different,
    Judge,
    Reference,
    compare_step,
    kind_of,
    ordinary_step,
    repeats,
    slacks_of,
)
from callbacks.whole.reasons import tell_of_compiling, told
from callbacks.whole.refusals import check_read_in_time
from callbacks.whole.stock import Stock
from callbacks.whole.watch import Watch

#: Steps of each program that are compared: momentum begins in the first, and is used in the second.
N_PROVEN = 2
#: Weights are multiplied by these for a second and a third look at a program that was found to differ. Where
#: a number is 0 but for rounding, ReLU may let it pass in one step and not in the other: of the 8192 of an
#: MLP one was 2e-9 in the 372nd step. A compiler's fault is seen at all of them.
SCALES = (1.003, 0.997)
#: Settings of the model that get programs of their own; more is a setting that changes all the time.
N_SETTINGS = 8
#: Of a step that nothing can be compared with.
UNLIKE = (
    "the ordinary step itself gives other numbers each time it is run with the same weights and random "
    "state: forward pass or loss draw from a generator of their own, read a clock, or count their calls"
)
#: Batches in a row with hooks on the model, from which on they are not those of a look now and then.
N_HOOKED = 3


#: The number of steps that may store something for later ones; each is an ordinary step.
N_FIRST = 2


class Unsettled(Unfit):
    """A step that may become a program later."""


class Maker:
    """The programs of a plug-in.

    They outlive a fit, as compiling takes seconds: those that a fit has used are there in the next one, where
    they are proven again before they are used.

    Args:
        backend: who makes code of a graph.
        n_programs: so many kinds of batches get a program.
    """

    def __init__(self, backend: Backend, n_programs: int):
        self.backend, self.n_programs = backend, n_programs
        self._stocks: dict[Any, Stock] = {}  # by the signature of the binding
        self.has_update = True  #: is the update a part of the programs?
        self.begin()

    def begin(self) -> None:
        """A fit begins."""
        self.rest()
        self.seconds = 0.0
        self._n_settings = self._n_hooked = self._n_failed = self._n_changed = 0
        self._was_told, self._change = False, ""
        for stock in self._stocks.values():
            stock.age()

    def rest(self) -> None:
        """A fit is over: hold nothing of the learner, and only programs that may be wanted again."""
        self._binding: Binding | None = None
        self._executed = Executed()
        self._stocks = {
            signature: stock
            for signature, stock in self._stocks.items()
            if stock.programs and stock.is_light and stock.is_alive
        }

    def release(self) -> None:
        """Bind anew at the next batch."""
        self._binding = None

    def doubt(self) -> None:
        """The optimizer has taken a step of its own: some parameters may have had no part in it."""
        if self._binding is not None and self.has_update:
            self._binding.is_doubtful = True

    def forget(self) -> None:
        """Let all programs go."""
        self._stocks = {}
        self.rest()

    def compute(self, learn: Any, kinds: list[str]) -> Pending | None:
        """The step of this batch; None where the ordinary one is to be taken.

        Args:
            learn: the learner, with a batch.
            kinds: those that have a program, as text; a new one is added.

        Raises:
            Unfit: the ordinary step is to be taken from now on.
            RuntimeError: the program gives other numbers than the ordinary step.
        """
        if self._binding is None and any(map(is_lazy, learn.model.parameters())):
            return None  # the first batch makes them
        binding = self._bind(learn)
        if self._is_hooked(binding):
            return None
        key, leaves = key_of(learn.inputs, learn.targets)
        program = binding.stock.programs.get(key)
        if program is not None and not program.n_unproven:
            binding.gather()
            return pending_of(binding, program, run(binding, program, leaves))
        if program is None and not self._admits(learn, leaves, kinds):
            return None
        try:
            return self._prove(learn, binding, key, leaves)
        except Unsettled as change:
            self._change = str(change)
            return None
        except Unfit as reason:
            if self._change and self._change != str(reason):
                raise Unfit(f"{self._change}, and {reason}") from reason
            raise

    def _bind(self, learn: Any) -> Binding:
        if self._binding is not None and self._binding.is_current(learn):
            return self._binding
        new = Binding(learn, self.has_update, self._executed)
        signature = new.sign()
        stock = self._stocks.get(signature)
        if stock is None or not stock.is_alive:
            stock = self._stocks[signature] = Stock.of(new.owners())
            self._n_settings += 1
            if self._binding is not None and self._n_settings > N_SETTINGS:
                what = new.differs_from(self._binding)
                raise Unfit(
                    f"{what} has changed {N_SETTINGS} times, and each value needs a program of its own"
                )
        if stock.unused:
            new = Binding(learn, self.has_update, self._executed, stock.unused)
        new.stock, self._binding = stock, new
        return new

    def _is_hooked(self, binding: Binding) -> bool:
        """Are hooks registered on a module? They would be called once, as the program is made."""
        if not any(binding.hook_dicts):
            self._n_hooked = 0
            return False
        self._n_hooked += 1
        if self._n_hooked >= N_HOOKED:
            hooked = next(where for where, hooks in binding.hooks if hooks)
            raise Unfit(f"hooks are registered on {hooked}, which a program would not call")
        return True

    def _admits(self, learn: Any, leaves: list[Any], kinds: list[str]) -> bool:
        """Is this kind of batch to have a program?"""
        kind = ", ".join(kind_of(each) for each in leaves if isinstance(each, Tensor))
        if kind in kinds:
            return True
        if len(kinds) < self.n_programs:
            kinds.append(kind)
            return True
        if not self._was_told:
            self._was_told = True
            warn(
                f"WholeStep: batch {learn.batch_idx} of epoch {learn.epoch} is {kind}, and {self.n_programs} "
                f"other kinds have a program already ({'; '.join(kinds)}): it takes the ordinary step, as "
                "will others that are new. Pad batches to a few lengths, drop the last one, or allow more, "
                "with WholeStep(n_programs=...)."
            )
        return False

    def _prove(self, learn: Any, binding: Binding, key: Any, leaves: list[Any]) -> Pending | None:
        """One of a program's first steps, with the ordinary one beside it; makes the program if need be."""
        binding.gather()
        before, n_known = draws.take(), len(self._executed.codes)
        reference = self._reference(learn, binding, before)
        if reference is None:
            return None
        if len(self._executed.codes) > n_known:  # there is more to watch
            self._binding, self._n_settings = None, 0
            binding = self._bind(learn)
            binding.gather()
        binding, program, outs = self._run_first(learn, binding, key, leaves, before)
        after = draws.take()
        self._executed.check()
        judge = Judge(f"in batch {learn.batch_idx} of epoch {learn.epoch}")
        try:
            compare_step(judge, program, binding.sources, outs, reference)
        except Different:
            if not any(self._agrees(learn, binding, program, leaves, before, scale) for scale in SCALES):
                draws.put(before)
                if not repeats(reference, ordinary_step(learn, binding.sources)):
                    draws.put(before)
                    raise Unfit(UNLIKE) from None
                judge.slacks = slacks_of(learn, binding.sources, reference, before)
                compare_step(judge, program, binding.sources, outs, reference)
            draws.put(after)
        program.n_unproven -= 1
        change_buffers(binding, program, outs)
        return pending_of(binding, program, outs)

    def _reference(self, learn: Any, binding: Binding, before: Any) -> Reference | None:
        """The ordinary step on copies, from random numbers as they were before; None where it fails once."""
        model, loss_func = learn.model, learn.loss_func
        guess = Executed.guessed(model, loss_func)
        watch = Watch(model.modules(), loss_func, guess, passes_over=True)
        try:
            reference = ordinary_step(learn, binding.sources, within=self._executed.recording())
            check_draws(before, draws.take())
        except Unfit:
            raise
        except Exception as error:
            self._n_failed += 1
            if self._n_failed > 1:
                raise Unfit(f"the ordinary step on copies of the model fails ({told(error)})") from error
            return None
        finally:
            draws.put(before)
            left = watch.put_back()
        self._check_left(left)
        return reference

    def _run_first(
        self, learn: Any, binding: Binding, key: Any, leaves: list[Any], before: Any
    ) -> tuple[Binding, Program, list[Tensor]]:
        """What a program gives that is to be proven; it is made if need be."""
        try:
            program = binding.stock.programs.get(key) or self._recall(learn, binding, key, leaves, before)
            if program is None:
                tell_of_compiling(learn, self.backend, leaves)
                binding, program = self._make(learn, binding, leaves)
            check_read_in_time(learn, program.constants)
            binding.stock.programs[key] = program
            draws.put(before)
            return binding, program, run(binding, program, leaves, changes_buffers=False)
        except Unfit:
            draws.put(before)
            raise
        except Exception as error:
            draws.put(before)
            raise Unfit(f"a program of it cannot be made ({told(error)})") from error

    def _recall(
        self, learn: Any, binding: Binding, key: Any, leaves: list[Any], before: Any
    ) -> Program | None:
        """The program of the fit before; None where there is none, or something that it read has changed."""
        program = binding.stock.old.pop(key, None)
        if program is None:
            return None
        look = partial(self._agrees, learn, binding, program, leaves, before)
        if not any(map(look, (1, *SCALES))) and not look(1, is_shaken=True):
            return None
        program.n_unproven = N_PROVEN
        return program

    def _agrees(
        self,
        learn: Any,
        binding: Binding,
        program: Program,
        leaves: list[Any],
        before: Any,
        scale: float,
        *,
        is_shaken: bool = False,
    ) -> bool:
        """Do both steps agree at weights that are multiplied by a number; as far as rounding lets them?"""
        draws.put(before)
        reference = ordinary_step(learn, binding.sources, scale)
        slacks = slacks_of(learn, binding.sources, reference, before) if is_shaken else {}
        draws.put(before)
        outs = run(binding, program, leaves, changes_buffers=False, scale=scale)
        try:
            compare_step(Judge("", slacks), program, binding.sources, outs, reference, scale)
        except Different:
            return False
        return True

    def _check_left(self, left: str) -> None:
        """Refuse a step that has changed what is neither parameter nor buffer, not only at its first time.

        What a first step keeps for later ones, the ordinary step keeps, and the next one finds it there.
        """
        if left:
            self._n_changed += 1
            kind = Unfit if self._n_changed > N_FIRST else Unsettled
            raise kind(f"the forward pass or the loss changes {left}, which is neither parameter nor buffer")

    def _make(self, learn: Any, binding: Binding, leaves: list[Any]) -> tuple[Binding, Program]:
        """A program; where parameters have no part in the loss, it is made without them."""
        spec = pytree.tree_structure((learn.inputs, learn.targets))
        of_loss = [(each, each.clone(), each._version) for each in loss_tensors(learn).values()]
        try:
            program = make_program(
                Step(binding.sources, spec, leaves), binding.flat(leaves), self.backend, N_PROVEN
            )
        except Unused as unused:
            if binding.stock.unused:
                raise Unfit(f"whether {unused} has a part in the loss hangs on the batch") from unused
            stock = binding.stock
            stock.unused = frozenset(unused.names)
            self._binding = binding = Binding(learn, self.has_update, self._executed, stock.unused)
            binding.stock = stock
            binding.gather()
            return self._make(learn, binding, leaves)
        finally:
            left = binding.watch.put_back()
            put_back_changed(of_loss)
        self._check_left(left)
        self.seconds += program.seconds
        return binding, program


@torch.no_grad()
def put_back_changed(kept: list[tuple[Tensor, Tensor, int]]) -> None:
    """Undo what was written to tensors since they were copied: making a program runs the loss."""
    for tensor, copied, version in kept:
        if tensor._version != version:
            tensor.copy_(copied)
