"""Forward, loss and gradients as one compiled program, and the update without torch's wrappers."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.settings import check_count
from callbacks.core.warning import warn
from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.guarded_program import Backend
from callbacks.fast.handed_over import Pending
from callbacks.fast.lean_optimizer import LeanUpdate, zero_grad
from callbacks.fast.program_choice import Programs
from callbacks.fast.refused_callbacks import (
    AFTER_PRED,
    BEFORE_GRADIENTS,
    INNER,
    callbacks_that_change,
    check_overridden,
    check_together,
    writes_uncounted,
)
from callbacks.place.layout import check_backend
from callbacks.step.precision import MixedPrecision


class WholeStep(Callback):
    """Compute forward, loss and gradients of a training step as one compiled program.

    In seconds to minutes, `torch.compile` makes one program of the three, which runs in place of the forward
    pass. Each step is then faster; `docs/speed.md` shows after how many steps this pays off. At their events,
    loss and gradients are ordinary tensors: callbacks can read, clip, scale, replace or accumulate gradients,
    cancel the batch or the update, scale the loss, or add a term to it that depends on weights. `LeanStep`
    does the update. Buffers (batch norm), dropout with torch's random numbers and `MixedPrecision("bf16")`
    are part of the program. Validation and prediction run without it.

    A program is made for one kind of batch (types and shapes), and for the values of everything that forward
    and loss read: attributes, containers, closures, global variables, hooks, settings of torch. A new value
    gets another program, and so does a smaller last batch. Kinds of batches beyond `n_programs` take the
    ordinary step, with a warning. Programs that a fit has used are kept for the next fit.

    The first two steps of each program are computed by the ordinary step as well, and compared: if the
    compiler computes something else, an error names the tensor. In the next 15 steps, both the program and
    the ordinary step run and are timed. During all of these steps, copies are kept of the tensors that the
    step reads and does not train. The numbers equal those of the ordinary step up to rounding, and have the
    same bits in each run.

    If no program is possible, the ordinary step is taken for the rest of the fit, and a warning gives the
    reason and the line. This happens with a forward pass that branches on values, or stores something on the
    model; random numbers of Python or NumPy; sparse gradients; hooks on parameters or saved tensors; anomaly
    detection; a setting that changes all the time; code that asks whether it is compiled; a callback, or a
    subclass of the learner, that overrides `forward`, `compute_loss` or `backward`; several processes; no
    C++ compiler; a program that is slower than the ordinary step.

    Args:
        backend: what compiles: `"inductor"`, `"aot_eager"`, `"eager"`, another name that `torch.compile`
            knows, or a function of graph module and inputs that returns a function. `"eager"` and
            `"aot_eager"` generate no code, which helps to find an error; their programs are not timed.
        update: deprecated, has no effect: the update is always that of `LeanStep`.
        n_programs: how many kinds of batches get a program, at least 1.
        graphs: on CUDA, record each program of `"inductor"` as a CUDA graph, which replays all kernels at
            once. Predictions and the loss are copied, weights and buffers are not. Not tried on a GPU yet.

    Attributes:
        kinds: the kinds of batches that have a program, as text.

    Warns:
        LearnerWarning: the ordinary step is taken; once per fit.

    Raises:
        ValueError: a setting is not allowed, or another callback implements `step` or `zero_grad`. In a fit:
            a callback would have no effect, such as `MixUp` or `MixedPrecision("fp16")`, or has changed
            something that the loss reads after the forward pass.
        RuntimeError: the program computes other numbers than the ordinary step.
    """

    order = Order.GRADIENT
    state = ("kinds",)
    yields = INNER
    matches_loop = True  # it computes what the loop computes: the first batch is examined as usual

    def __init__(
        self,
        backend: Backend = "inductor",
        *,
        update: str | None = None,
        n_programs: int = 4,
        graphs: bool = False,
        name: str | None = None,
    ):
        super().__init__(name=name)
        check_backend("WholeStep", backend)
        check_count("WholeStep", "n_programs", n_programs, 1)
        if update is not None:
            warnings.warn(
                f"WholeStep(update={update!r}) has no effect: the update is always that of LeanStep. Leave "
                "the argument out.",
                DeprecationWarning,
                stacklevel=3,
            )
        self.backend, self.update, self.n_programs, self.graphs = backend, update, n_programs, graphs
        self.kinds: list[str] = []
        self._programs = Programs(backend, n_programs, graphs=graphs)
        self._reason: str | None = None
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """The attributes without the programs and the learner, which cannot be copied."""
        programs = Programs(self.backend, self.n_programs, graphs=self.graphs)
        left_out = {"_pending": None, "_callbacks": None, "_update": LeanUpdate(len), "_programs": programs}
        return {**vars(self), **left_out}

    def _forget(self) -> None:
        self._pending: Pending | None = None
        self._is_on = False  # in a training pass, not where `learn.check()` tries the operations one by one
        self._callbacks: Any = None
        self._mixed = ""
        self._update = LeanUpdate(len)  # called with a reason that nobody needs to know
        self._checks_read = self._checks_gradients = self._copies = False

    @property
    def fallback(self) -> str | None:
        """Why the ordinary step is taken, in this fit or the last; None if it is not."""
        return self._reason

    @property
    def compile_seconds(self) -> float:
        """Seconds that compiling took in this fit, or the last; 0 if all programs are of an earlier one."""
        return self._programs.seconds

    @property
    def compiles_update(self) -> bool:
        """Deprecated, always False: the update is not part of the programs."""
        return False

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._forget()
        earlier = None if self._reason else self._programs
        self._programs = Programs(self.backend, self.n_programs, graphs=self.graphs, earlier=earlier)
        self._reason, self.kinds = None, []
        self._look(learn)

    def _look(self, learn: LearnerProtocol) -> None:
        """Examine the callbacks, at the start of a fit and when they have changed during it."""
        if learn.callbacks is self._callbacks:
            return
        check_together(self, learn)
        self._callbacks = learn.callbacks
        self._checks_read = bool(callbacks_that_change(learn, AFTER_PRED))
        suspects = callbacks_that_change(learn, BEFORE_GRADIENTS)
        hooks = [getattr(each, event) for each in suspects for event in BEFORE_GRADIENTS]
        self._checks_gradients, self._copies = bool(suspects), any(map(writes_uncounted, hooks))
        is_mixed = any(isinstance(each, MixedPrecision) for each in learn.callbacks)
        kind = learn.device.type if is_mixed else ""
        self._mixed = "cpu" if kind == "meta" else kind
        try:
            check_overridden(self, learn)
        except Unfit as reason:
            self._fall_back(reason)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._pending = None  # left over from a pass that ended in the middle
        self._is_on = True
        self._look(learn)  # a new callback may override `forward`

    def forward(self, learn: LearnerProtocol) -> None:
        # without gradients: a callback uses the model in the middle of a batch
        if not learn.training or not torch.is_grad_enabled():
            learn.forward()
            return
        self._pending = None
        self._look(learn)
        if self._is_on and self._reason is None:
            try:
                self._pending = self._programs.run(learn, self._mixed, self.kinds)
            except Unfit as reason:
                learn.forward()  # an error in the user's code comes before the warning
                self._fall_back(reason)
                return
        if self._pending is None:
            learn.forward()
            return
        learn.preds = self._pending.preds
        if self._checks_read or self._copies:
            self._pending.remember(copy=self._copies)

    def _fall_back(self, reason: Unfit) -> None:
        """Take the ordinary step from now on."""
        if self._reason is None:
            self._reason, self.kinds = str(reason), []
            self._programs.clear()
            warn(f"WholeStep uses the ordinary step, because {reason}.")

    def compute_loss(self, learn: LearnerProtocol) -> None:
        pending = self._pending
        if pending is None or not learn.training:
            learn.compute_loss()
            return
        if self._checks_read:
            pending.check_read(learn)
        learn.loss_grad = pending.loss

    def backward(self, learn: LearnerProtocol) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            learn.backward()
            return
        if self._checks_gradients:
            pending.check_gradients(learn)
        pending.add_gradients(learn)

    def step(self, learn: LearnerProtocol) -> None:
        if self._reason is None:
            self._update.step(learn.optimizer)
        else:
            learn.step()

    def zero_grad(self, learn: LearnerProtocol) -> None:
        self._pending = None
        zero_grad(learn.optimizer)

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._forget()
        self._programs.rest()
