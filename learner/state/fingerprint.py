"""The fingerprint of a run, which must match that of the checkpoint from which it resumes."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.core.contract import Callback
from callbacks.core.output import listed
from callbacks.core.warning import warn
from callbacks.core.when import saved_part
from callbacks.model.lazy import NONE, tensors_without_values
from callbacks.model.module_state import tensors_of
from callbacks.optim.optimizers import title_of
from learner.data.batching import TensorLoader
from learner.data.generators import takers
from learner.data.loaders import n_batches_of
from learner.data.stored import Stored
from learner.data.tensors import Column
from learner.state.protocol import FullLearner

N_SHOWN = 10  # names in a message
N_SAMPLED = 4096  # rows of a tensor in its checksum, so that large data takes no time
N_READ = 64  # items of a file in its checksum, because each of them is a separate read

#: What may differ if the user allows it by name.
CHOICES = (
    *("optimizer", "callbacks", "n_items", "batch_size", "n_batches", "drop_last", "sampler", "seed"),
    *("content", "loader", "order"),
)
#: What may differ with a warning, because the bits may differ then.
SOFT = ("torch", "python", "numpy", "plainlearner", "device", "n_workers")


def fingerprint(learn: FullLearner) -> dict[str, Any]:
    """Names, shapes and dtypes of tensors, the optimizer, data, callbacks with state, and versions."""
    data = {part: data_of(learn, part) for part in learn.data.loaders}
    return {
        "model": {
            **{name: [list(each.shape), str(each.dtype)] for name, each in tensors_of(learn.model).items()},
            **{name: [None, reason] for name, reason in tensors_without_values(learn.model).items()},
        },
        "optimizer": optimizer_of(learn),
        "callbacks": {
            each.name: type(each).__name__
            for each in learn.callbacks
            if declares_state(saved_part(each)) and was_given(learn, each)
        },
        "data": {part: at_start for part, (at_start, _) in data.items()},
        "loaders": {part: now for part, (_, now) in data.items()},
        "versions": versions(learn),
    }


def declares_state(callback: Callback) -> bool:
    """Does a callback save anything? Its `before_fit` may create it."""
    return bool(callback.state) or type(callback).state_dict is not Callback.state_dict


def was_given(learn: FullLearner, callback: Callback) -> bool:
    """Was the callback there when `fit` was called? One that is added later is missing when a run resumes."""
    return not learn.fitting or learn.given is None or callback.name in learn.given


def optimizer_of(learn: FullLearner) -> dict[str, Any]:
    """The class of the optimizer, and the names of each group's parameters."""
    names = {id(each): name for name, each in learn.model.named_parameters()}
    groups = [] if learn.optimizer is None else learn.optimizer.param_groups
    return {
        "class": title_of(learn.optimizer),
        "groups": [[names.get(id(each), "?") for each in group["params"]] for group in groups],
    }


def data_of(learn: FullLearner, part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fingerprint of a loader at the start of the fit, and the current one.

    A new process should start with the first: during a fit a callback may replace the loader, and `set_epoch`
    or a sampler may change its length. A change of the data itself cannot be repeated, so in that case the
    current fingerprint is both.
    """
    loader = learn.data.loaders[part]
    now = loader_of(loader)
    given, at_start = learn.loop.known.at_start.get(part, (loader, now))
    if now == at_start or loader is not given or isinstance(loader, TensorLoader):
        return at_start, now
    is_same_data = now.get("n_items") is not None and now["n_items"] == at_start["n_items"]
    return (at_start if is_same_data or any(takers(loader)) else now), now


def loader_of(loader: Any) -> dict[str, Any]:
    """The fingerprint of a loader."""
    found = {"loader": type(loader).__name__, "n_batches": n_batches_of(loader)}
    for name in ("batch_size", "drop_last"):
        found[name] = plain_or_none(getattr(loader, name, None))
    if isinstance(loader, TensorLoader):
        found |= {"n_items": loader.n_items, "content": content_of_loader(loader)}
        found["order"] = None if loader.blocks is None else str(loader.blocks)
        found["seed"] = loader.seed if loader.seed_was_given else None
    elif loader is not None:
        found["n_items"] = n_batches_of(getattr(loader, "dataset", None))
        found["sampler"] = type(getattr(loader, "sampler", None)).__name__
        found["n_workers"] = plain_or_none(getattr(loader, "num_workers", None))
    return found


def content_of_loader(loader: TensorLoader) -> int:
    """A checksum of some values of its items; of arrays on a disk, of some values of all and of the rows."""
    rows = loader.rows
    if rows is not None and any(isinstance(column, Stored) for column in loader.columns):
        return content_of((*loader.columns, rows))
    return content_of(loader.columns, rows)


def content_of(tensors: Iterable[Column], rows: Tensor | None = None) -> int:
    """A checksum of some values of each tensor, or of some of these rows.

    It shows different data or a different split.
    """
    found = 0
    for tensor in tensors:
        if isinstance(tensor, Stored):
            tensor = tensor.sample(N_READ)
        step = max(1, len(tensor if rows is None else rows) // N_SAMPLED)
        some = slice(None, step * N_SAMPLED, step)
        picked = tensor[some] if rows is None else tensor[rows[some].to(tensor.device)]
        picked = picked.flatten(1)[:, :4] if picked.ndim > 1 else picked
        found = zlib.crc32(picked.contiguous().cpu().view(torch.uint8).numpy().tobytes(), found)
    return found


def plain_or_none(value: Any) -> Any:
    """The value if it is an int or a bool, otherwise None."""
    return value if isinstance(value, (bool, int)) else None


def versions(learn: FullLearner) -> dict[str, Any]:
    """The versions of the software, and the device."""
    device = learn.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "plainlearner": own_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "numpy": str(np.__version__),
        "device": f"{device.type} ({name})",
    }


@cache
def own_version() -> str:
    """The installed version of this project."""
    try:
        return version("plainlearner")
    except PackageNotFoundError:  # it runs from its sources
        return "(not installed)"


def differences(
    then: dict[str, Any],
    now: dict[str, Any],
    path: Path,
    *,
    parts: Iterable[str] = ("model", "optimizer", "callbacks", "data"),
    allow: Iterable[str] = (),
    fix: str = "",
) -> set[str]:
    """Compare two fingerprints.

    Args:
        then: that of the file.
        now: that of the learner.
        path: the file.
        parts: which parts to compare.
        allow: names of differences that are allowed.
        fix: what to do about a difference, if no run is being resumed.

    Returns:
        The names of the allowed differences that were found.
    """
    allow = check_allow(allow)
    compare = {
        "model": model_differences,
        "optimizer": optimizer_differences,
        "callbacks": callback_differences,
        "data": data_differences,
    }
    found = [each for part in parts for each in compare[part](then[part], now[part])]
    refused = [(name, words) for name, words in found if name not in (*allow, *SOFT)]
    if refused:
        lines = "\n".join(f"  {name}: {words}" for name, words in refused)
        fix = fix or fix_for({name for name, _ in refused}, allow)
        raise ValueError(f"{path} is from another run (then, now):\n{lines}\n{fix}")
    soft = [f"{name} {words}" for name, words in (*found, *version_differences(then, now)) if name in SOFT]
    allowed = [f"{name}: {words}" for name, words in found if name in allow]
    if soft or allowed:
        warn(
            f"resuming from {path.name} with {'; '.join([*allowed, *soft])}: the results may differ from "
            "those of an uninterrupted run."
        )
    return {name for name, _ in found if name in allow}


def fix_for(names: set[str], allow: tuple[str, ...]) -> str:
    """What to do about differences of these names when a run resumes."""
    fix = "Undo these changes, or start another run in another folder."
    if names <= set(CHOICES):
        fix += f" To resume with them: allow={tuple(sorted({*names, *allow}))!r}."
    return fix


def check_allow(allow: Iterable[str]) -> tuple[str, ...]:
    """The names of the allowed differences, checked."""
    names = tuple(allow) if isinstance(allow, Iterable) and not isinstance(allow, str) else (allow,)
    for name in names:
        if name not in CHOICES:
            raise ValueError(f"allow={name!r} is not a known difference. Choose from: {', '.join(CHOICES)}.")
    return names


def model_differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Report tensors that are missing, new, or of another shape or dtype."""
    kinds = {
        "missing from the file": [name for name in now if name not in then and now[name][0] is not None],
        "only in the file": [name for name in then if name not in now],
    }
    for words, names in kinds.items():
        if names:
            yield "model", f"{listed(names, N_SHOWN)} {words}"
    both = [name for name in now if name in then and now[name][0] is not None and then[name][1] != NONE]
    changed = [name for name in both if list(then[name]) != list(now[name])]
    if changed:
        shown = [f"{name} {describe(then[name])}, {describe(now[name])}" for name in changed]
        yield "model", listed(shown, N_SHOWN)


def describe(tensor: list[Any]) -> str:
    """`(3, 4) float32`."""
    shape, dtype = tensor
    if shape is None:
        return "has no shape yet"
    return f"{tuple(shape)} {dtype.removeprefix('torch.')}"


ADDED_GROUPS = (
    " (groups that were added during the fit are missing when it resumes: make all groups at the start, and "
    "freeze their parameters until then, as Learner(splitter=...) and learn.freeze() do)"
)


def optimizer_differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Report another class, or other parameters in the groups."""
    if then["class"] != now["class"]:
        yield "optimizer", f"{then['class']}, {now['class']}"
    elif then["groups"] != now["groups"]:
        sizes = [" + ".join(str(len(group)) for group in each["groups"]) for each in (then, now)]
        hint = " in another order" if sizes[0] == sizes[1] else ""
        if then["groups"][: len(now["groups"])] == now["groups"]:
            hint = ADDED_GROUPS
        yield "optimizer", f"groups of {sizes[0]} parameters, {sizes[1]}{hint}"


def callback_differences(then: dict[str, str], now: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Report callbacks with state that are missing, new or of another class."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            yield "callbacks", f"{name}: {then.get(name, 'missing')}, {now.get(name, 'missing')}"


def data_differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Report differences between the fingerprints of the loaders."""
    for part in {**then, **now}:
        first, second = then.get(part, {}), now.get(part, {})
        for name in {**first, **second}:
            if first.get(name) != second.get(name):
                hint = " (other values, or another random split: pass a seed)" if name == "content" else ""
                yield name, f"{first.get(name)}, {second.get(name)} ({part}){hint}"


def version_differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Report other software or hardware."""
    for name in {**then["versions"], **now["versions"]}:
        first, second = then["versions"].get(name), now["versions"].get(name)
        if first != second:
            yield name, f"{first}, now {second}"
