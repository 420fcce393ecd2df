"""Match the names in a file with those of a model, if the model is wrapped or was when it was saved.

`torch.compile` adds `_orig_mod.` to the names of the module that it wraps, even in the middle of a name.
`DataParallel` and `DistributedDataParallel` add `module.`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from callbacks.core.output import print_line

Strip = Callable[[str], str]

COMPILED, PARALLEL = "_orig_mod.", "module."
WAYS: tuple[Strip, ...] = (
    lambda name: name,
    lambda name: without(name, COMPILED),
    lambda name: re.sub(r"^(module\.)+", "", without(name, COMPILED)),
    lambda name: without(without(name, COMPILED), PARALLEL),
)


def without(name: str, segment: str) -> str:
    """A name without all occurrences of a segment."""
    return re.sub(rf"(?<![^.]){re.escape(segment)}", "", name)


def way_to_match(names: Iterable[str], others: Iterable[str]) -> Strip:
    """The renaming with which most names match; if several match as many, the one that changes least."""
    first, second = set(names), set(others)

    def n_common(way: Strip) -> int:
        found = [set(map(way, each)) for each in (first, second)]
        if [len(each) for each in found] != [len(first), len(second)]:
            return -1  # two names would become the same
        return len(found[0] & found[1])

    return max(WAYS, key=n_common)  # the first of several with the same number


def matched(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """For each of `others` the name among `names` that matches it, or itself without a match."""
    names, others = list(names), list(others)
    way = way_to_match(names, others)
    known = {way(name): name for name in names}
    return {other: known.get(way(other), other) for other in others}


def note(path: Any, names: dict[str, str]) -> None:
    """Print how names were matched, if any differ."""
    changed = [pair for pair in names.items() if pair[0] != pair[1]]
    if not changed:
        return
    both = "\n".join(f"{one}\n{other}" for one, other in changed)
    segments = [each for each in (COMPILED, PARALLEL) if each in both]
    print_line(
        f"{path.name}: names were matched without {' and '.join(map(repr, segments))}, as "
        f"{changed[0][0]!r} with {changed[0][1]!r}"
    )


def renamed(contents: dict[str, Any], model: nn.Module, now: Iterable[str], path: Any) -> dict[str, Any]:
    """The contents of a checkpoint with the current names of the model's tensors.

    Args:
        contents: of the file.
        model: the model.
        now: the current names.
        path: the file, for the line that is printed.
    """
    then = contents["fingerprint"]["model"]
    names = matched(now, then)
    if all(name == new for name, new in names.items()):
        return contents
    note(path, names)
    of_module = renaming_of_modules(model, way_to_match(now, then))
    return {
        **contents,
        **{key: renamed_keys(contents[key], names) for key in ("model", "gradients", "callbacks")},
        "empty": {names.get(name, name): each for name, each in contents.get("empty", {}).items()},
        "frozen": [names.get(name, name) for name in contents["frozen"]],
        **{
            key: {of_module(name): each for name, each in contents.get(key, {}).items()}
            for key in ("extra", "plain")
        },
        "moved": [
            f"model.{of_module(name[6:])}" if name.startswith("model.") else name
            for name in contents["moved"]
        ],
        "generators": {
            f"model.{of_module(name[6:] + '.x')[:-2]}" if name.startswith("model.") else name: each
            for name, each in contents["generators"].items()
        },
        "fingerprint": renamed_fingerprint(contents["fingerprint"], names),
    }


def renamed_fingerprint(saved: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The fingerprint of a run with the current names of the tensors."""
    groups = [[names.get(each, each) for each in group] for group in saved["optimizer"]["groups"]]
    optimizer = {**saved["optimizer"], "groups": groups}
    return {**saved, "model": renamed_keys(saved["model"], names), "optimizer": optimizer}


def renaming_of_modules(model: nn.Module, way: Strip) -> Callable[[str], str]:
    """A function that returns the current name of an attribute of a module, from its name in a file."""
    modules = {way(f"{place}.").rstrip("."): place for place, _ in model.named_modules()}  # the innermost

    def of_module(key: str) -> str:
        place, dot, own = key.rpartition(".")
        new = modules.get(way(place + dot).rstrip("."), place)
        return f"{new}.{own}" if new else own

    return of_module


def renamed_keys(value: Any, names: dict[str, str]) -> Any:
    """A state with the new names in each dict whose keys are names of tensors, such as averaged weights."""
    if type(value) is not dict:
        return value
    if value and all(key in names for key in value):
        return {names[key]: each for key, each in value.items()}
    return {key: renamed_keys(each, names) for key, each in value.items()}
