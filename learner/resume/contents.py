"""Check the contents of a checkpoint before anything is changed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.core.modules import LOSS
from callbacks.history.packed_rows import unpacked
from learner.files import checkpoint_file
from learner.files.value_types import Check, anything, fields, items, mapping, of, optional
from learner.state.attributes import CLOCK

N_SHOWN = 3  # problems in a message

NUMBER, WORD, FLAG, NOTHING, TENSOR = of(int), of(str), of(bool), of(type(None)), of(Tensor)
DRAWN = mapping(fields({"kind": WORD, "state": anything}))  # generators of a loader or a module
ROW, ANYTHINGS = of(tuple, list), mapping(anything)
RANDOM = fields({"torch": TENSOR, "python": ROW}, {"numpy": ROW, "cuda": items(TENSOR)})
MODULE = {
    "tensors": mapping(TENSOR),
    "empty": mapping(WORD),
    "extra": ANYTHINGS,
    "frozen": items(WORD),
    "plain": ANYTHINGS,
}

FIT = fields(
    {
        "index": NUMBER,
        "n_epochs": NUMBER,
        "groups": optional(items(of(dict))),
        "stop_reason": optional(WORD),
        "position": optional(
            fields(
                {"epoch": NUMBER, "phase": optional(WORD), "n_done": NUMBER, "ended": FLAG},
                {"n_validated": NUMBER, "group": NUMBER, "shards": NUMBER},
            )
        ),
        "mark": optional(fields({"random": RANDOM, "generators": DRAWN})),
        "now": optional(fields({"random": NOTHING, "generators": DRAWN})),
    },
    {"values": mapping(mapping(ANYTHINGS))},  # of the loaders' parts
)
PACKED = fields(
    {
        "forms": items(items(items(WORD))),
        **dict.fromkeys(("form_of", "floats", "numbers"), of(array)),
        "others": of(list),
    }
)


def rows(value: Any, place: str) -> Iterator[str]:
    """Packed rows, or those of a file of format 1."""
    return (PACKED if type(value) is dict else items(ANYTHINGS))(value, place)


HISTORY = fields(
    {
        "rows": rows,
        "stops": items(of(tuple, list)),
        "steps": fields({"train_loss": of(array), "lr": of(array)}),
    },
    {"validations": rows, "directions": mapping(optional(WORD))},
)
FINGERPRINT = fields(
    {
        "model": mapping(items(anything)),
        "optimizer": fields({"class": WORD, "groups": items(items(WORD))}),
        "callbacks": mapping(WORD),
        "data": fields({"train": ANYTHINGS, "valid": ANYTHINGS}),
        "versions": ANYTHINGS,
    }
)
COUNTS = dict.fromkeys(("epoch", "n_epochs", "batch_idx", "global_step", "n_samples"), NUMBER)
PIECES: dict[str, Check] = {  # what every checkpoint holds
    "model": mapping(TENSOR),
    "extra": ANYTHINGS,
    "frozen": items(WORD),
    "optimizer": anything,
    "callbacks": ANYTHINGS,
    "loaders": ANYTHINGS,
    "generators": mapping(DRAWN),
    "random": RANDOM,
    "clock": fields({**COUNTS, "n_batches": optional(NUMBER), "training": FLAG}),
    "history": HISTORY,
    "results": ANYTHINGS,
    "gradients": mapping(TENSOR),
    "fit": FIT,
    "fingerprint": FINGERPRINT,
}
CONTENTS = fields(
    PIECES,
    {
        "empty": mapping(WORD),
        "plain": ANYTHINGS,
        "item": optional(WORD),
        "moved": items(WORD),
        "wrapped": ANYTHINGS,
        "left_out": fields({"names": items(WORD), "sum": NUMBER}),
        "learner": ANYTHINGS,
        LOSS: optional(fields({**MODULE, "parameters": items(WORD)})),
        "gradients_beside": mapping(mapping(TENSOR)),
    },
)


def check_contents(contents: dict[str, Any], path: Path) -> None:
    """Raise an error for contents of the wrong type.

    Args:
        contents: of the file; the fingerprint is a dict.
        path: the file, for the message.

    Raises:
        CheckpointError: lists the first problems, each with its place.
    """
    problems = list(islice(CONTENTS(contents, ""), N_SHOWN))
    problems = problems or list(islice(deeper_problems(contents), N_SHOWN))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise checkpoint_file.CheckpointError(
            f"{path} is complete, but other code wrote or changed it. Nothing was loaded.\n{lines}\n"
            f"{checkpoint_file.ANOTHER}"
        )


def history_in(contents: dict[str, Any], path: Path) -> dict[str, Any]:
    """The history as `load_state_dict` takes it, from contents that have been checked.

    Raises:
        CheckpointError: its rows cannot be unpacked.
    """
    history = dict(contents["history"])
    for name in ("rows", "validations"):
        if isinstance(history.get(name), dict):
            try:
                history[name] = unpacked(history[name])
            except ValueError as error:
                raise checkpoint_file.CheckpointError(
                    f"{path}: history.{name} {error}. {checkpoint_file.ANOTHER}"
                ) from None
    return history


def deeper_problems(contents: dict[str, Any]) -> Iterator[str]:
    """Problems in contents whose types are right."""
    yield from unknown_keys("clock", contents["clock"], CLOCK)
    yield from unknown_keys("loaders", contents["loaders"], tuple(contents["fingerprint"]["data"]))
    position = contents["fit"]["position"]
    if position is not None:
        yield from position_problems(position, contents["fit"])


def unknown_keys(place: str, value: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[str]:
    """Report keys that this project does not write."""
    for key in value:
        if key not in known:
            yield f"{place} has {key!r}, and may have {', '.join(known)}"


def position_problems(position: dict[str, Any], fit: dict[str, Any]) -> Iterator[str]:
    """Report a position outside a pass, or in a pass whose state is missing."""
    phase = position["phase"]
    if phase not in (None, "train", "validate"):
        yield f"fit.position.phase is {phase!r}, but must be 'train', 'validate' or None"
    for name, least in {"epoch": 0, "n_done": 0, "group": 1, "shards": 1}.items():
        if position.get(name, least) < least:
            yield f"fit.position.{name} is {position[name]}, but must be {least} or more"
    for name in ("mark", "now"):
        if phase is not None and fit[name] is None:
            yield f"fit.{name} is None, but must be a state because fit.position.phase is {phase!r}"
