"""Forward, loss, backward, clip and update as one compiled program."""

from __future__ import annotations

from typing import Any, Literal

import torch

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.warning import warn
from callbacks.fast.lean_proof import Unfit
from callbacks.whole.binding import IN_BATCH, OF_GRADIENTS
from callbacks.whole.graph import OWN, Backend, check_known
from callbacks.whole.maker import Maker
from callbacks.whole.pending import Pending, leaves_are, take
from callbacks.whole.refusals import changed, check_together, leaves_update, listeners


class WholeStep(Callback):
    """Do the whole training step as one compiled program: forward, loss, gradients, clip and update.

    The step is traced as one graph of tensors, which Inductor, the compiler of `torch.compile`, makes code
    of. That takes seconds to minutes, and each step saves some time: `docs/speed.md` tells from how many on
    it pays. The program is run in place of the forward pass, and what it computed is used as the events go
    on. Weights and optimizer change in `step`, not before, so a batch that is cancelled has changed nothing
    but buffers, as ever. Validation and prediction run as they did.

    The optimizer is the learner's own. Its rates and other settings may change at any time without another
    program, and its state is what it would have been. Buffers (batch norm), dropout with torch's random
    numbers, `MixedPrecision("bf16")` and `GradientClip` are a part of the program. A plug-in that looks at
    gradients gets them (one that hears `after_backward`, `before_step` or `after_step`, and does not say
    `reads_gradients = False`, which saves time); one that changes them, the loss or the predictions ends the
    fit with an error that names it. Where rates or weights change after the forward pass, the optimizer takes
    its own step from then on, with a warning; where no plug-in gets gradients, that is an error.

    The updates of torch's `SGD`, `Adam` and `AdamW` are a part of the program. Those of other optimizers are
    not, nor is an update for several batches (`GradientAccumulation`), at other weights than the gradients'
    (`WeightNoise`), or with a clip that comes and goes (`When`): there the program has forward, loss and
    gradients, the optimizer takes its own step, and plug-ins may change gradients, or scale the loss, as they
    may without it.

    The first two steps of each program are done by the ordinary step as well, on copies of model and
    optimizer, and compared: a fault of the compiler is an error that names the tensor. A fault is what is
    seen at three slightly different weights, and is more than ten times what the ordinary step's numbers
    change by where all weights are moved by a few roundings. Numbers are the program's from the first step
    on: those of the ordinary step but for rounding, and the same bits each time.

    A line tells when a program is compiled, where `Progress` is there.

    A program is made for the shapes of a batch. A smaller last batch gets its own; from the fifth shape on
    the ordinary step is taken, with a warning, and so it is for a batch while hooks are registered on a
    layer. Each value of an attribute of a layer, as `training` or the `p` of a dropout, has a program of its
    own, too. Programs that a fit has used are kept for the next one of the same model, and compared anew.
    Where a program cannot be made, the ordinary step is taken for the rest of the fit, and a warning says
    why: a forward pass that branches on values, keeps something on the model, or draws random numbers of
    Python or NumPy; a loss that reads weights of the model by itself; a parameter that is none of the
    model's; hooks on the optimizer's step; no C++ compiler.
    Before each step it compares all that the step can read with what it was when the program was made:
    attributes, slots, and entries of containers of up to 4096, at any depth, of the model, the loss function
    and modules that they reach in whatever way, and the closures, defaults, global variables and class
    attributes that the functions name which the first steps have called. Where they can read what cannot be
    compared (a NumPy array, an iterator, the environment, a clock, a cached function), the ordinary step is
    taken. So it is where a callback uses `.data` of tensors between the forward pass and the step, as torch
    does not count what is written there, and within an autocast other than that of `MixedPrecision`.

    On a GPU the program is a CUDA graph. That has never run on one.

    Args:
        backend: who makes code of the graph: `"inductor"`, `"aot_eager"`, `"eager"`, another name that
            `torch.compile` knows, or a function of graph module and inputs that gives a function.
        update: `"ordinary"` to leave the update to the optimizer, for plug-ins that change gradients or scale
            the loss.
        n_programs: so many shapes of batches get a program, 1 or more.

    Attributes:
        kinds: the shapes of batches that have a program, as text.

    Warns:
        LearnerWarning: the ordinary step is taken; once a fit.

    Raises:
        ValueError: a setting cannot be used; when it is put together with another doer of an operation (it
            does all but `place`); at the fit's begin: a plug-in whose work would be silenced, as `MixUp` or
            `MixedPrecision("fp16")`; in it: a plug-in has changed what was used already.
        RuntimeError: the program gives other numbers than the ordinary step.

    Source: "torch.func" and "Compiling the optimizer with torch.compile", PyTorch documentation.
    """

    order = Order.GRADIENT
    state = ("kinds",)
    matches_loop = True  # what the loop does, done in another way: the first batch is looked at as ever

    def __init__(
        self,
        backend: Backend = "inductor",
        *,
        update: Literal["compiled", "ordinary"] = "compiled",
        n_programs: int = 4,
        name: str | None = None,
    ):
        super().__init__(name=name)
        if not (callable(backend) or (isinstance(backend, str) and backend)):
            raise ValueError(
                f"WholeStep({backend!r}): pass the name of a backend, as 'inductor', or a function of a "
                "graph module and its inputs."
            )
        if isinstance(backend, str) and backend not in OWN:
            check_known(backend)
        if type(n_programs) is not int or n_programs < 1:
            raise ValueError(f"WholeStep(n_programs={n_programs!r}): write a whole number of at least 1.")
        if update not in ("compiled", "ordinary"):
            raise ValueError(f"WholeStep(update={update!r}): write 'compiled' or 'ordinary'.")
        self.backend, self.update, self.n_programs = backend, update, n_programs
        self.kinds: list[str] = []
        self._maker = Maker(backend, n_programs)
        self._reason: str | None = None
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """Without the programs, which cannot be copied."""
        learners = {"_pending": None, "_callbacks": None, "_optimizer": None}
        return {**vars(self), **learners, "_maker": Maker(self.backend, self.n_programs)}

    def _forget(self) -> None:
        self._pending: Pending | None = None
        self._is_on = False  # in a training pass, not where `learn.check()` tries the operations one by one
        self._has_gradients = True  # those that were there before
        self._compiles = self.update == "compiled"  # unless somebody changes rates within a step
        self._callbacks: Any = None
        self._optimizer: Any = None

    @property
    def fallback(self) -> str | None:
        """Why the ordinary step is taken, in this fit or the last; None where it is not."""
        return self._reason

    @property
    def compile_seconds(self) -> float:
        """How long the programs of this fit, or the last, took to make; 0 for those of an earlier one."""
        return self._maker.seconds

    @property
    def compiles_update(self) -> bool:
        """Is the update a part of the programs of this fit, or the last?"""
        return self._maker.has_update

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._forget()
        self._reason, self.kinds = None, []
        if (self._maker.backend, self._maker.n_programs) != (self.backend, self.n_programs):
            self._maker = Maker(self.backend, self.n_programs)
        self._compiles = self.update == "compiled"
        self._maker.begin()
        self._look(learn)

    def _look(self, learn: Any) -> None:
        """Look at who is there, at the fit's begin and where somebody was added in it."""
        check_together(self, learn)
        self._callbacks, self._optimizer = learn.callbacks, learn.optimizer
        self._maker.has_update = self._compiles and not leaves_update(learn)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._pending = None  # of a pass that was left in the middle
        self._is_on = True

    def forward(self, learn: Any) -> None:
        # without gradients somebody looks at the model, in the middle of a batch
        if not learn.training or not torch.is_grad_enabled():
            learn.forward()
            return
        if learn.callbacks is not self._callbacks or learn.optimizer is not self._optimizer:
            self._look(learn)
        if self._pending is not None:
            raise changed(learn, "whether there is an update (CancelStep)", OF_GRADIENTS)
        if self._is_on and self._reason is None:
            try:
                self._pending = self._maker.compute(learn, self.kinds)
            except Unfit as reason:
                self._fall_back(reason)
        if self._pending is None:
            learn.forward()
        else:
            learn.preds = self._pending.preds

    def compute_loss(self, learn: Any) -> None:
        pending = self._pending
        if pending is None or not learn.training:
            learn.compute_loss()
            return
        if learn.preds is not pending.preds and not leaves_are(learn.preds, pending.preds):
            raise changed(learn, "the predictions", ("after_pred",))
        if not pending.has_read_in_time():
            raise changed(learn, "a tensor that the loss reads", ("after_pred",))
        learn.loss_grad = pending.loss

    def backward(self, learn: Any) -> None:
        pending = self._pending
        if pending is None:
            self._has_gradients = True
            learn.backward()
            return
        self._has_gradients = self._has_gradients or bool(pending.grads)
        if not pending.has_update:
            slope = pending.slope(learn.loss_grad)
            if slope is None:
                raise changed(learn, "the loss by more than a scale", ("after_loss", "before_backward"))
            pending.add_gradients(slope)
            self._pending = None
            return
        if learn.loss_grad is not pending.loss:
            raise changed(learn, "the loss", ("after_loss", "before_backward"))
        if not pending.binding.trains_as_ever():
            raise changed(learn, "which parameters are trained, or their hooks", IN_BATCH[:3])
        pending.hand_over()

    def step(self, learn: Any) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            learn.step()
            self._maker.doubt()
            return
        if pending.was_touched():
            raise changed(learn, "gradients", OF_GRADIENTS)
        if pending.still_holds(learn):
            take(pending)
        elif pending.grads:  # the gradients are there as the ordinary step would have them
            learn.step()
            self._leave_update(learn)
        else:
            raise changed(learn, "weights, or settings of the optimizer or of GradientClip", IN_BATCH)

    def _leave_update(self, learn: Any) -> None:
        """Let the optimizer take its own step from now on, as somebody changes what it hangs on."""
        self._compiles = self._maker.has_update = False
        self._maker.release()
        warn(
            f"WholeStep: {listeners(learn, *OF_GRADIENTS)} has changed weights, or settings of the optimizer "
            f"or of GradientClip, in batch {learn.batch_idx} of epoch {learn.epoch}, after the program had "
            "run with the former ones. The update is the optimizer's own from now on, so the numbers are "
            "right; WholeStep(update='ordinary') does so from the begin. Rates that are set in before_batch "
            "are in time."
        )

    def zero_grad(self, learn: LearnerProtocol) -> None:
        if self._pending is not None:
            self._pending.take_back()
        self._pending = None
        if self._has_gradients:
            learn.optimizer.zero_grad()
            self._has_gradients = False

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._forget()
        self._maker.rest()

    def _fall_back(self, reason: Unfit) -> None:
        self._reason, self.kinds = str(reason), []
        self._maker.forget()
        warn(f"WholeStep: the ordinary step is taken, since {reason}.")
