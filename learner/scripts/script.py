"""The script: the places of its loop to which the parts of a learner add lines, and its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from learner.scripts.batches import Batch
from learner.scripts.expressions import Expressions
from learner.scripts.loader_forms import Loaders
from learner.scripts.source_text import imports_for, indented
from learner.state.protocol import FullLearner

Lines = list[str]


@dataclass
class Script:
    """A training loop in which each callback has added its lines, in the order in which they run."""

    learn: FullLearner  #: the learner
    expressions: Expressions  #: writes objects as Python, and collects what cannot be written
    #: loaders, batch: where batches come from, and how they are used
    loaders: Loaders
    batch: Batch
    n_epochs: int  #: how many epochs the script trains
    title: str = ""  #: the first line of the script
    output: Any = None  #: what the model returns for a batch, if that is not one tensor
    loss: str = ""  #: the call of the loss, such as `F.mse_loss(preds, targets)`
    constants: dict[str, str] = field(default_factory=dict)  #: names at the top of the script
    helpers: dict[str, str] = field(default_factory=dict)  #: functions and classes by name
    setup: Lines = field(default_factory=list)  #: before the first epoch
    #: before the training pass, in the model's training mode
    epoch_start: Lines = field(default_factory=list)
    batch_start: Lines = field(default_factory=list)  #: before the forward pass of a training batch
    autocast: str = ""  #: the context of the forward pass and the loss, or an empty string
    after_loss: Lines = field(default_factory=list)  #: after the loss of a training batch
    before_backward: Lines = field(default_factory=list)  #: before gradients are computed
    differentiated: str = "loss"  #: the loss whose gradients are computed
    has_scaler: bool = False  #: whether a gradient scaler scales that loss
    update_if: str = ""  #: the condition on which a batch is followed by an update; empty for each batch
    #: before_step, step, after_step: around the update
    before_step: Lines = field(default_factory=list)
    step: Lines = field(default_factory=lambda: ["optimizer.step()"])
    after_step: Lines = field(default_factory=list)
    step_if: str = ""  #: the condition on which `after_step` runs; empty for each update
    after_update: Lines = field(default_factory=list)  #: after the gradients are dropped
    #: after a training batch, whether or not it was followed by an update
    after_batch: Lines = field(default_factory=list)
    after_train: Lines = field(default_factory=list)  #: after the training pass
    valid_batch: Lines = field(default_factory=list)  #: after the loss of a validation batch
    after_valid: Lines = field(default_factory=list)  #: after the validation pass
    #: after_epoch, end_epoch: at the end of the epoch; the second ones may leave the loop
    after_epoch: Lines = field(default_factory=list)
    end_epoch: Lines = field(default_factory=list)
    after_fit: Lines = field(default_factory=list)  #: after the last epoch
    measured: set[str] = field(default_factory=set)  #: names in `results`
    #: callbacks that only look at the training, which the script does without
    left_out: list[str] = field(default_factory=list)
    #: what lines use that is added on request: "batch_idx", "global_step", "modes", "random_states"
    needs: set[str] = field(default_factory=set)
    #: in which direction each result is better
    directions: dict[str, str | None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  #: variables that callbacks have taken

    def problem(self, text: str) -> None:
        """Note why the learner has no script."""
        self.expressions.problems.append(text)

    def own(self, name: str) -> str:
        """A variable of one callback, with a number if another callback has this name."""
        number = 2
        own = name
        while own in self.names:
            own, number = f"{name}_{number}", number + 1
        self.names.add(own)
        return own

    @property
    def length(self) -> str:
        """An expression for the number of training batches; a problem if it is not known."""
        if self.loaders.n_batches is None:
            self.problem(
                "data: the training data has no length, which a schedule and GradientAccumulation need"
            )
        return "len(train_loader)"

    @property
    def updates_per_epoch(self) -> int | None:
        """1 if each epoch is one update, 2 if it is more, None if that is not known."""
        n_batches = self.loaders.n_batches
        window = next((each for each in self.learn.callbacks if each.accumulates_gradients), None)
        n_waiting = getattr(window, "n_batches", 1) or (n_batches or 1)
        return None if n_batches is None else min(2, -(-n_batches // n_waiting))

    # The text

    def text(self, head: str) -> str:
        """The whole script; `head` is its docstring."""
        body = "\n".join(["def main() -> None:", indented(self.lines())])
        helpers = [text.strip("\n") for text in self.helpers.values()]
        constants = "\n".join(f"{name} = {value}" for name, value in self.constants.items())
        parts = [*helpers, body, 'if __name__ == "__main__":\n    main()']
        code = "\n\n\n".join(parts)
        imports = imports_for(f"{constants}\n{code}", self.expressions.imports)
        top = "\n\n".join([f'"""{head}\n"""', imports, constants])
        return f"{top}\n\n\n{code}\n"

    def lines(self) -> Lines:
        """The lines of `main`."""
        loop = [*self.epoch(), *self.valid(), *self.after_epoch, *self.end_epoch]
        return [
            *self.setup,
            *(["global_step = 0  # updates so far"] if "global_step" in self.needs else []),
            "",
            "for epoch in range(N_EPOCHS):",
            *inner(loop),
            "",
            *self.after_fit,
            'torch.save(model.state_dict(), "model.pt")',
        ]

    def epoch(self) -> Lines:
        """The training pass."""
        header = f"for {self.batch.variables} in {self.loaders.train}:"
        if "batch_idx" in self.needs:
            variables = self.batch.variables
            variables = f"({variables})" if "," in variables and not variables.startswith("(") else variables
            header = f"for batch_idx, {variables} in enumerate({self.loaders.train}):"
        return [
            *self.epoch_start,
            "model.train()",
            *self.modes(),
            header,
            *inner(self.train()),
            *self.after_train,
        ]

    def modes(self) -> Lines:
        """Parts of the model that stay in evaluation mode."""
        lines = ["for module in kept_in_evaluation_mode:", "    module.training = False"]
        return lines if "modes" in self.needs else []

    def train(self) -> Lines:
        """A training batch."""
        counted = ["global_step += 1"] if "global_step" in self.needs else []
        after = [*counted, *self.after_step]
        after = [f"if {self.step_if}:", *inner(after)] if self.step_if and after else after
        update = [*self.before_step, *self.step, *after, "optimizer.zero_grad()", *self.after_update]
        update = [f"if {self.update_if}:", *inner(update)] if self.update_if else update
        return [
            *self.place(),
            *self.batch_start,
            *self.forward(),
            *self.after_loss,
            *self.before_backward,
            self.backward(),
            *update,
            *self.after_batch,
        ]

    def backward(self) -> str:
        """The statement that computes the gradients."""
        loss = self.differentiated
        if self.has_scaler:
            return f"scaler.scale({loss}).backward()"
        return f"{f'({loss})' if ' ' in loss else loss}.backward()"

    def place(self) -> Lines:
        """Unpack a batch, and move it to the device."""
        placed = self.batch.placed() if "DEVICE" in self.constants else []
        if self.batch.lines:
            return [*self.batch.lines, *placed]
        if len(placed) == 2 and not any(" = {" in each or " = [" in each for each in placed):
            names = ", ".join(each.partition(" = ")[0] for each in placed)
            return [f"{names} = {', '.join(each.partition(' = ')[2] for each in placed)}"]
        return placed

    def forward(self) -> Lines:
        """The predictions and the loss."""
        preds = f"preds = model({self.batch.inputs})"
        if not self.autocast:
            return [preds, f"loss = {self.loss}"]
        return [f"with {self.autocast}:", *inner([*self.as_float(preds), f"loss = {self.loss}"])]

    def as_float(self, preds: str) -> Lines:
        """The predictions of autocast as float32: those of the model, or each of several."""
        if self.output is None:
            return [f"{preds}.float()"]
        kind = type(self.output)
        if kind in (tuple, list) and all(isinstance(each, Tensor) for each in self.output):
            return [preds, f"preds = {kind.__name__}(each.float() for each in preds)"]
        return [preds]

    def valid(self) -> Lines:
        """The validation pass."""
        if not self.loaders.valid:
            return []
        batch = [*self.place(), *self.forward(), *self.valid_batch]
        context = "torch.no_grad(), torch.random.fork_rng():"
        if "random_states" in self.needs:
            context = "torch.no_grad(), same_random_states():"
        loop = [f"for {self.batch.variables} in {self.loaders.valid}:", *inner(batch)]
        comment = "# the random numbers of validation are not taken from those of training"
        return ["", "model.eval()", comment, f"with {context}", *inner(loop), *self.after_valid]


def inner(lines: Lines) -> Lines:
    """The lines of a block."""
    return [f"    {line}" if line else "" for line in lines]
