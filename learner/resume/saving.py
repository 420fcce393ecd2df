"""Save a learner: to one file, and to a folder next to it if the model is sharded; now or in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from callbacks.core.ranks import Ranks, is_first_process
from callbacks.distributed.group import Members
from callbacks.history.paths import PendingSave, as_path
from callbacks.model import shards
from callbacks.record.unsaved_weights import note_kept
from learner.files import checkpoint_file, shard_files, skeleton
from learner.files.plain import to_plain
from learner.messages.keywords import suggest_keywords
from learner.resume import base_model, own_data
from learner.resume.collecting import At, contents_of, warn_of_limits
from learner.resume.finite_weights import check_finite
from learner.state import optimizer_modes, unkept
from learner.state.protocol import FullLearner


@suggest_keywords
def save(learn: FullLearner, path: str | Path, *, at: At | None = None, without: Iterable[str] = ()) -> Path:
    """Write everything that training needs to continue to one file.

    The file holds what a snapshot holds, the gradients, and the position in the data.

    Args:
        learn: the learner.
        path: the file; an existing one is replaced when the new one is complete on disk, and a missing folder
            is created. The weights and buffers are `torch.load(path)["model"]`.
        at: for callbacks that save: the position in the fit at which `fit(resume="auto")` resumes: after a
            `"batch"`, after an `"epoch"`, or at the `"end"` of a fit that was cancelled. With None the file
            is only for `load`, and also with `"before"`, for weights before the last update. If several
            processes train, all of them must call this, unless it is None and the model is not sharded.
        without: names of parameters that the file leaves out, such as the frozen ones of a base model. The
            learner that loads the file must have the same parameters: a checksum is compared.

    Returns:
        The file's absolute path.

    Raises:
        FloatingPointError: weights are NaN or infinite.
        TypeError: a callback's state contains something that cannot be saved; the message says where.
        ValueError: a name in `without` is not a parameter of the model.
        OSError: the file cannot be written.
    """
    path = as_path("save", "path", path, "the name of a file, such as 'model.pt'").absolute()
    if not takes_part(learn, at):
        return path
    if at is None and not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    with collected(learn, path, at) as contents:
        ranks = Members() if shards.are_in(learn.model) else learn.ranks
        if is_in_parts(learn, at, without):
            write_shards(learn, path, contents, ranks)
        else:
            whole = whole_of(learn, contents, without)
            write = partial(write_file, learn, path, whole)
            if shards.are_in(learn.model) or at is not None:
                ranks.first(write)
            else:
                write()
    note_kept()
    return path


@suggest_keywords
def async_save(
    learn: FullLearner,
    path: str | Path,
    *,
    at: At | None = None,
    without: Iterable[str] = (),
    then: Callable[[], None] | None = None,
) -> PendingSave:
    """Copy what `save` writes, and write it in a thread while training continues.

    The copy takes as much main memory as the file. Call `wait()` on the returned object before you use the
    file; it raises what `save` would have raised.

    Args:
        learn: the learner.
        path: the file, as for `save`.
        at: as for `save`.
        without: as for `save`.
        then: a function that the thread calls when the file is complete, in the first process only.

    Returns:
        The save, with the method `wait`.

    Raises:
        FloatingPointError, TypeError: as for `save`.

    Source: `torch.distributed.checkpoint.async_save`, which writes the tensors of sharded models.
    """
    path = as_path("async_save", "path", path, "the name of a file, such as 'model.pt'").absolute()
    if then is not None and not callable(then):
        raise TypeError(
            f"async_save(then={then!r}): pass a function without arguments, to be called at the end."
        )
    then = then or (lambda: None)
    if not takes_part(learn, at):
        return PendingSave(lambda: None)
    with collected(learn, path, at) as contents:
        if is_in_parts(learn, at, without):
            pending = write_shards_later(learn, path, contents, then)
        else:
            pending = write_file_later(learn, path, whole_of(learn, contents, without), then)
    note_kept()
    return pending


def takes_part(learn: FullLearner, at: At | None) -> bool:
    """Does this process have something to write, or to send to a process that writes?"""
    return is_first_process() or shards.are_in(learn.model) or at is not None


def is_in_parts(learn: FullLearner, at: At | None, without: Iterable[str]) -> bool:
    """Does each process write its part of the tensors?"""
    return shards.are_in(learn.model) and at is not None and not without


@contextmanager
def collected(learn: FullLearner, path: Path, at: At | None) -> Iterator[dict[str, Any]]:
    """The contents of the file; nothing is copied, so they are valid only within the block."""
    check_finite(learn, path)
    if at is not None:
        warn_of_limits(learn)
    with optimizer_modes.in_eval_mode(learn) as training_weights:
        contents = {**contents_of(learn, at), "training_weights": training_weights}
        yield contents if at is None else own_data.with_all_ranks(learn, contents)


def whole_of(learn: FullLearner, contents: dict[str, Any], without: Iterable[str]) -> dict[str, Any]:
    """The contents with whole tensors; empty in other processes than the first."""
    if shards.are_in(learn.model):
        contents = shards.gathered(contents, is_wanted=is_first_process())
    return base_model.without_base(learn.model, contents, without) if is_first_process() else {}


def write_file(learn: FullLearner, path: Path, contents: dict[str, Any]) -> None:
    """Write one file."""
    checkpoint_file.write(path, plain_of(learn, contents))


def plain_of(learn: FullLearner, contents: dict[str, Any]) -> dict[str, Any]:
    """The contents as plain data, with the checksums of its types."""
    plain = to_plain(unkept.without_unkept(learn, contents), "")
    return {**plain, "kinds": skeleton.sums_of(plain)}


def write_shards(learn: FullLearner, path: Path, contents: dict[str, Any], ranks: Ranks) -> None:
    """Write a file, and sharded tensors to a folder next to it; every process must call this."""
    tensors: dict[str, Tensor] = {}
    contents = shard_files.split(contents, tensors)
    part = shard_files.part_of(path, ranks)
    try:
        shard_files.write(part, tensors)
        ranks.first(lambda: write_index(path, plain_of(learn, contents), part))
    except BaseException:
        shard_files.remove(part)
        raise


def write_index(path: Path, plain: dict[str, Any], part: Path) -> None:
    """Write the file that names a folder with all tensors, and complete the folder."""
    checkpoint_file.write(path, {**plain, shard_files.KEY: shard_files.commit(part)})


def write_file_later(
    learn: FullLearner, path: Path, contents: dict[str, Any], then: Callable[[], None]
) -> PendingSave:
    """Write one file in a thread of the first process, from a copy of the contents."""
    plain = copied_plain(learn, contents)

    def _write() -> None:
        if plain is not None:
            checkpoint_file.write(path, plain)
            then()

    return PendingSave(_write)


def write_shards_later(
    learn: FullLearner, path: Path, contents: dict[str, Any], then: Callable[[], None]
) -> PendingSave:
    """Write a file and a folder next to it in threads; every process must call this, in a fit."""
    tensors: dict[str, Tensor] = {}
    contents = shard_files.split(contents, tensors)
    part = shard_files.part_of(path, learn.ranks)
    written = shard_files.write_later(part, tensors, learn.ranks.files_group())
    plain = copied_plain(learn, contents)

    def _write() -> None:
        try:
            written()
            if plain is not None:
                write_index(path, plain, part)
                then()
        except BaseException:
            shard_files.remove(part)
            raise

    return PendingSave(_write)


def copied_plain(learn: FullLearner, contents: dict[str, Any]) -> dict[str, Any] | None:
    """The contents as plain data that later steps do not change; None in other processes than the first."""
    if not is_first_process():
        return None
    return copied(plain_of(learn, contents), {})


def copied(value: Any, known: dict[Any, Any]) -> Any:
    """Plain data with copies of its tensors in main memory; an object that occurs twice is copied once.

    Args:
        value: as `to_plain` returns.
        known: the copies, with their originals, so that no other object gets the same id.
    """
    kind = type(value)
    if kind is Tensor:
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        found = known.get(place) if value.numel() else None  # as of tied weights
        if found is None:
            found = known[place] = value, value.to("cpu", copy=True)
        return found[1]
    if kind not in (dict, list, tuple):
        return value
    if id(value) not in known:
        if kind is dict:
            found = {key: copied(each, known) for key, each in value.items()}
        else:
            found = kind(copied(each, known) for each in value)
        known[id(value)] = value, found
    return known[id(value)][1]
