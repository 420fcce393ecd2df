"""Export a model to a file that other programs load, and check the file against `predict`."""

from __future__ import annotations

import copy
import inspect
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.core.output import print_line
from callbacks.core.warning import warn
from callbacks.history.paths import as_path, followed
from callbacks.model.module_state import kept_buffers
from callbacks.record.unsaved_weights import note_kept
from learner.data.data import InputsOnly
from learner.data.items import in_batch, n_items_of
from learner.data.samples import Sample, Samples
from learner.engine import fits
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.files.sync import sync, sync_folder
from learner.inference import programs
from learner.inference.call import Call, leaves, plain, same_numbers
from learner.inference.given_inputs import as_inputs
from learner.inference.one_item import first_batch, to_cpu, training_samples
from learner.messages.keywords import suggest_keywords
from learner.state import optimizer_modes, snapshots
from learner.state.protocol import FullLearner

N_MADE_UP = 8
MOST_ITEMS = 64  # of a batch, for the check; a larger batch would show nothing new
RANDOM = (
    "the model's output differs from call to call in evaluation mode, so only the shapes of the outputs were "
    "compared. Its forward draws random numbers or changes a buffer. For dropout use nn.Dropout, or "
    "F.dropout(x, training=self.training)."
)


@suggest_keywords
def export(
    learn: FullLearner, path: str | Path, *, example: Any = None, dynamic: Iterable[int] | None = None
) -> Path:
    """Write the model in evaluation mode to a file, and check the file against `predict`.

    The file is loaded again, and its outputs for a batch, for one item and for another number of items are
    compared with those of `predict`. The largest difference is printed. The model, its modes and the random
    states stay as they are. The file contains the weights that `predict` uses, on the CPU.

    Args:
        learn: the learner.
        path: the file; its suffix is the format. `.pt2`: a program that `torch.export.load` loads without
            your code. `.onnx`: for ONNX Runtime and others. `.safetensors` and `.pt`: the weights alone, for
            `load_state_dict`.
        example: a batch of inputs, as for `predict`; by default a batch of the data.
        dynamic: the dimensions of each input whose size may vary, such as `(0, 1)` for sequences of any
            length; `()` for none. By default the dimension that counts the items.

    Returns:
        The file's absolute path.

    Raises:
        ImportError: the format needs a package that is missing.
        TypeError, ValueError: an argument cannot be used, the format is unknown, the model cannot be
            exported, or the file does not agree with `predict`. An existing file is not changed.
    """
    path = as_path("export", "path", path, "the name of a file, such as 'model.pt2'").absolute()
    write = programs.writer_of(path)
    is_program = write is not programs.write_weights
    with optimizer_modes.in_eval_mode(learn), torch.no_grad(), unchanged(learn):
        call = call_of(learn, example, checked_dimensions(dynamic) if is_program else ())
        if is_program:
            call.check_for_program()
        with noted_as_made_up(learn, example):
            outputs = {call.n_items: predicted(learn, call.inputs)}
        is_random = not same_numbers(outputs[call.n_items], predicted(learn, call.inputs))
        outputs |= others(learn, call)
        with programs.plain_model(learn.model, call) as model, temporary(path) as file:
            if is_program:
                check_arguments(learn, model, call)
            run, origin = write(model, call, file)
            difference = largest_difference(learn, call, run, outputs, is_random)
    if is_random:
        warn(f"{path.name}: {RANDOM}")
    note_kept()
    counts = ", ".join(map(str, sorted(outputs)))
    found = "" if is_random else f"; largest difference from learn.predict: {difference:.2g}"
    if difference and (around := around_forward(learn)):
        found += f", because predict runs within {', '.join(around)}, and the file does not"
    print_line(f"{path.name}: {origin}; checked with {counts} items{found}")
    return path


@contextmanager
def unchanged(learn: FullLearner) -> Iterator[None]:
    """Restore the random states, the buffers that a forward pass writes to, and the learner's last error."""
    error = learn.error
    try:
        with snapshots.keep_random_states(), kept_buffers(learn.model):
            yield
    finally:
        learn.error = error


def checked_dimensions(dynamic: Any) -> tuple[int, ...] | None:
    """The dimensions that may vary as a tuple; None for the usual one."""
    if dynamic is None:
        return None
    if isinstance(dynamic, str) or not isinstance(dynamic, Iterable):
        raise TypeError(f"export(dynamic={dynamic!r}): pass dimensions, such as (0,) or (0, 1); () for none.")
    return tuple(dynamic)


def call_of(learn: FullLearner, example: Any, dynamic: tuple[int, ...] | None) -> Call:
    """What the model is called with: the example, or the first batch of the data."""
    if example is not None:
        inputs = as_inputs(example, learn)[0].inputs
        n_items = n_items_of(inputs, None)
    elif (batch := first_batch(learn.data, MOST_ITEMS)) is not None:
        inputs, _ = learn.data.split(batch)
        n_items = in_batch(learn.data, batch)
        programs.drop_labels(learn.model, inputs := copy.copy(inputs))
    else:
        inputs, n_items = made_up(training_samples(learn) or {}), N_MADE_UP
    if not n_items:
        raise ValueError("export: the batch to check the file with has no items: pass example=inputs.")
    call = Call(to_cpu(inputs), n_items, dynamic)
    return call.resized(MOST_ITEMS) if call.varies and n_items > MOST_ITEMS else call


@contextmanager
def noted_as_made_up(learn: FullLearner, example: Any) -> Iterator[None]:
    """Add to an error of the model that its inputs were made up."""
    try:
        yield
    except Exception as error:
        if example is None and first_batch(learn.data) is None:
            error.add_note(
                "export: there is no batch of data, so the inputs are random numbers, or zeros if they "
                "are whole numbers. If the model cannot take these, pass example=inputs."
            )
        raise


def made_up(samples: Samples) -> Any:
    """Inputs of the shapes and types of the training batches, for a run whose data is missing."""
    if not samples or not all(isinstance(each, Sample) for each in samples.values()):
        raise ValueError(
            "export: no batch can be taken from the data without using it up, and the check of the file "
            "needs one: pass example=inputs."
        )
    found = {}
    for key, sample in samples.items():
        shape = (*sample.shape[: sample.dim], N_MADE_UP, *sample.shape[sample.dim :])
        is_whole = not sample.dtype.is_floating_point
        found[key] = (
            torch.zeros(shape, dtype=sample.dtype) if is_whole else torch.randn(shape).to(sample.dtype)
        )
    return tuple(found.values()) if isinstance(next(iter(found)), int) else found


def predicted(learn: FullLearner, inputs: Any) -> Any:
    """What `predict` returns for these inputs, in containers that need no other package."""
    with fits.aside(learn):
        learn.batch = InputsOnly(copy.copy(inputs))
        learn.loop.run_model(learn)
        return plain(to_cpu(learn.preds))


def others(learn: FullLearner, call: Call) -> dict[int, Any]:
    """The outputs for one item and for other numbers of items, as far as the model takes them."""
    found, error = {}, None
    for n_items in call.other_counts():
        if max(found, default=0) > call.n_traced:
            break
        try:
            found[n_items] = predicted(learn, call.resized(n_items).inputs)
        except Exception as raised:  # noqa: BLE001 (whatever the user's model raises)
            error = raised
    if error is not None and not set(found) - {call.n_traced}:
        more = [dim for dim in call.dynamic or () if dim not in map(call.item_dimension, call.tensors)]
        if more:
            raise ValueError(
                f"export(dynamic={call.dynamic!r}): the model takes no other size in dimension {more[0]}, so "
                f"leave it out: {error}"
            ) from error
        raise ValueError(
            f"export: the model takes {call.n_items} items, but no other number of them: {error}. Let its "
            f"forward use x.shape[0], or pass dynamic=() for a file that takes {call.n_items} items only."
        ) from error
    return found


def largest_difference(
    learn: FullLearner, call: Call, run: Callable[[Call], Any], outputs: dict[int, Any], is_random: bool
) -> float:
    """Compare the file's outputs with those of `predict`, for each number of items."""
    largest = 0.0
    for n_items, expected in outputs.items():
        try:
            found = tensors(run(call.resized(n_items)))
        except Exception as error:
            raise ValueError(disagreement(learn, n_items, f"cannot be computed: {error}")) from error
        shapes = [[tuple(each.shape) for each in output] for output in (found, tensors(expected))]
        if shapes[0] != shapes[1]:
            what = f"has the shapes {shapes[0]}, and that of predict {shapes[1]}"
            raise ValueError(disagreement(learn, n_items, what))
        for one, other in () if is_random else zip(found, tensors(expected), strict=True):
            difference, allowed = difference_of(one, other), allowed_difference(learn, other)
            if not difference <= allowed:
                what = f"differs from that of predict by up to {difference:.2g}; {allowed:.2g} is allowed"
                raise ValueError(disagreement(learn, n_items, what))
            largest = max(largest, difference)
    return largest


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output."""
    return [each for each in leaves(output) if isinstance(each, Tensor)]


def difference_of(one: Tensor, other: Tensor) -> float:
    """The largest difference; NaN against NaN and infinity against infinity are equal."""
    dtype = torch.complex128 if other.is_complex() else torch.float64
    one, other = one.to(dtype), other.to(dtype)
    is_same = (one == other) | (one.isnan() & other.isnan())
    return (one - other).abs().masked_fill(is_same, 0).max().item() if one.numel() else 0.0


def allowed_difference(learn: FullLearner, expected: Tensor) -> float:
    """A share of the largest number: more where `predict` rounds more, as on a GPU and under autocast."""
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0
    is_on_cpu = all(each.device.type == "cpu" for each in learn.model.parameters())
    is_exact = is_on_cpu and not around_forward(learn)
    share = max(0.001 if is_exact else 0.02, 8 * torch.finfo(expected.dtype).eps)
    finite = expected[expected.isfinite()].abs()
    return share * max(finite.max().item() if finite.numel() else 0.0, 0.01)


def around_forward(learn: FullLearner) -> list[str]:
    """The callbacks within which the learner's forward pass runs, such as mixed precision."""
    return [type(each).__name__ for each in learn.callbacks if "forward" in each.surrounds]


def check_arguments(learn: FullLearner, model: torch.nn.Module, call: Call) -> None:
    """Raise an error if the model's forward takes other arguments than the data have."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        changing = [type(each) for each in learn.callbacks if each.listens_to("before_batch")]
        names = [each.__name__ for each in changing if each not in DEFAULT_CALLBACKS]
        hint = f" {', '.join(names)} may change them in before_batch." if names else ""
        without = f"with learn.without({names[0]}): " if names else ""
        example = ", ".join(f"{name!r}: ..." for name in signature.parameters)
        raise ValueError(
            f"export: the model's forward cannot be called with the inputs of the data: {error}.{hint} Pass "
            f"what it takes: {without}learn.export(path, example={{{example}}})."
        ) from error


def disagreement(learn: FullLearner, n_items: int, what: str) -> str:
    """The message for a file that does not agree with `predict`."""
    hooks = ("before_batch", "after_pred", "forward", "surround")  # the code around the model in predict
    added = [type(each) for each in learn.callbacks if type(each) not in DEFAULT_CALLBACKS]
    changing = [each.__name__ for each in added if {*hooks} & set(vars(each))]
    causes = f" Callbacks that may change inputs or outputs: {', '.join(changing)}." if changing else ""
    if not learn.loop.runs_default("forward"):
        causes += f" {type(learn).__name__} or a callback overrides forward."
    return (
        f"export: for {n_items} items the output of the exported model {what}. Nothing was "
        f"written.{causes} The file contains only the model: what happens outside the model must become "
        "part of its forward."
    )


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A file of this name in a temporary folder next to it, which replaces it if no error is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = followed(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        written = sorted(Path(folder).iterdir(), key=lambda each: each.name == path.name)
        for each in written:  # the weights that belong to a large ONNX file come first
            with each.open("rb+") as file:
                sync(file.fileno(), target.parent)
            each.replace(target if each.name == path.name else target.parent / each.name)
    sync_folder(target.parent)
