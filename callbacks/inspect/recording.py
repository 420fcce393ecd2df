"""Tables that grow by one row at each recorded step, without a wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.every import whole_interval
from callbacks.model.held import Held
from callbacks.model.named import COMPILED, as_patterns, find_parameters, short_label
from callbacks.model.places import Places

MAX_LABEL = 32  # characters of a layer in a plot

Find = Callable[[nn.Module, Any, str], dict[str, Any]]


class Recording:
    """What a callback records of some parts of the model: one row of numbers for each recorded step.

    Rows stay on the device until `read` copies all of them to main memory at once.

    Args:
        owner: the callback's class, for messages.
        argument: the argument that names the parts.
        wanted: the names or patterns that the user passed there.
        every: `"10 steps"`: record step 10, 20, ..., counted over all fits.
        find: `find_layers` or `find_parameters`.
        choose: the names that are recorded where the user passed none; by default all that `find` returns.

    Attributes:
        names: the recorded parts, in the order in which the model has them.
        kinds: the class of each part's module.
        parts: the parts themselves, during a fit; None for one that the model no longer has.
        steps: the recorded steps.

    Raises:
        ValueError: `every` is not a whole number of steps.
        TypeError: `wanted` are not names.
    """

    def __init__(
        self,
        owner: str,
        argument: str,
        wanted: Any,
        every: Any,
        find: Find,
        choose: Callable[[dict[str, Any]], list[str]] = list,
    ):
        self.owner, self.argument, self.find, self.choose = owner, argument, find, choose
        self.begin(wanted, every)

    def begin(self, wanted: Any, every: Any) -> None:
        """Check the settings and forget what was recorded; call it in `before_fit`."""
        self.wanted = as_patterns(self.owner, self.argument, wanted)
        self.n, _ = whole_interval(self.owner, "every", every, "step")
        self.names: list[str] = []
        self.recorded = {"steps": []}
        self.end()

    def end(self) -> None:
        """Release the parts of the model; call it in `cleanup_fit`."""
        self.parts: list[Any] = []
        self._places: Places | None = None

    def look_up(self, model: nn.Module) -> None:
        """Find the parts; call it in `before_train`."""
        found = self.find(model, self.wanted, self.owner)
        self.names = self.names or (self.choose(found) if self.wanted is None else list(found))
        self.parts = [found.get(name) for name in self.names]
        self.kinds = kinds_of(model, self.names)
        self._places = Places(model)

    @property
    def labels(self) -> list[str]:
        """The name of each part and the class of its module, such as `0.weight Linear`, for plots."""
        kinds = self.kinds if len(self.kinds) == len(self.names) else [""] * len(self.names)
        return [short_label(name, kind, MAX_LABEL) for name, kind in zip(self.names, kinds, strict=True)]

    def is_coming(self, learn: LearnerProtocol) -> bool:
        """Will the step of the current batch be recorded? If so, `parts` are those that the model has now."""
        if not learn.training or (learn.global_step + 1) % self.n:
            return False
        if self._places is None or not self._places.are_of(learn.model):
            self.look_up(learn.model)
        return True

    def is_due(self, learn: LearnerProtocol) -> bool:
        """Is the last step recorded? For `after_step`."""
        return learn.global_step % self.n == 0

    def add(self, learn: LearnerProtocol, row: Tensor) -> None:
        """Record a row for the last step, without a wait."""
        self.steps.append(learn.global_step)
        self._pending.append(row.detach())

    def read(self) -> Tensor:
        """All rows in main memory, shape (steps, ...); waits for the device if rows are still there."""
        if self._pending:
            self._read.append(torch.stack(self._pending).cpu())
            self._pending.clear()
        if len(self._read) > 1:
            self._read = [torch.cat(self._read)]
        return self._read[0] if self._read else torch.empty(0)

    def table(self, *width: int) -> Tensor:
        """All rows, shape (steps, names, *width)."""
        return self.read().reshape(len(self.steps), len(self.names), *width)

    @property
    def recorded(self) -> dict[str, Any]:
        """Steps and rows as plain data; waits for the device."""
        return {"steps": list(self.steps), "rows": self.read(), "kinds": list(self.kinds)}

    @recorded.setter
    def recorded(self, recorded: dict[str, Any]) -> None:
        self.steps = list(recorded["steps"])
        self._read = [recorded["rows"].clone()] if self.steps else []
        self._pending: list[Tensor] = []
        self.kinds: list[str] = list(recorded.get("kinds", ()))  # older files have none

    def check(self) -> None:
        """Refuse to draw an empty table."""
        if not self.steps:
            steps = f"{self.n} step{'' if self.n == 1 else 's'}"
            raise ValueError(f"{self.owner} has recorded nothing yet: fit for {steps} or more.")


class ParameterRecorder(Callback):
    """A callback that records rows about parameters: `GradientFlow`, `WeightUpdates`, `LossSurface`."""

    state = ("parameter_names", "recorded")
    parameter_names = Held[list[str]]("_recording", "names", "The recorded parameters.")
    recorded = Held[dict[str, Any]]("_recording", "recorded", "All that was recorded, as plain data.")
    steps = Held[list[int]]("_recording", "steps", "The recorded steps.")

    def __init__(
        self, parameters: str | Sequence[str] | None = None, *, every: str = "1 step", name: str | None = None
    ):
        super().__init__(name=name)
        self.parameters, self.every = parameters, every
        title = type(self).__name__
        self._recording = Recording(title, "parameters", parameters, every, find_parameters, self._choose)

    def _choose(self, found: dict[str, nn.Parameter]) -> list[str]:
        """The names that are recorded by default."""
        return list(found)

    def before_fit(self, learn: LearnerProtocol) -> None:
        self._recording.begin(self.parameters, self.every)

    def before_train(self, learn: LearnerProtocol) -> None:
        self._recording.look_up(learn.model)

    def after_train(self, learn: LearnerProtocol) -> None:
        self._recording.read()  # the pass's one wait

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self._recording.end()


def kinds_of(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The class of each module, or of the module that has the parameter."""
    kinds = {name.replace(COMPILED, ""): type(each).__name__ for name, each in model.named_modules()}
    return [kinds.get(name) or kinds.get(name.rpartition(".")[0], "") for name in names]


def stacked(tensors: Iterable[Tensor]) -> Tensor:
    """Tensors of one shape as one, on the device of the first: a model may be spread over several."""
    first, *others = tensors
    return torch.stack([first, *(each.to(first.device, non_blocking=True) for each in others)])
