"""The plain files of a run's folder: `run.json`, and weights that torch or safetensors load without our code.

A run's folder has:

    recipe.yaml              the resolved recipe, with the user's Python files next to it
    run.json                 what is known about the run, see below
    model.safetensors        the final weights; model.pt if safetensors is missing or cannot hold them
    best.safetensors         the weights of the best epoch, if something is monitored; or best.pt
    model_loss.*, best_loss.*   the tensors of a loss that is a module, if it has any
    history.csv, *.png       a row of results per epoch, and the plots

`run.json` is one mapping. A value that is not known is null; numbers that are NaN or infinite are null too.

    format        1
    status        "running" (even if it was killed), "finished", "stopped" (by a callback), "interrupted"
                  (Ctrl-C, SIGTERM) or "failed"
    recipe        the title of the recipe, otherwise the name of its file
    source        the path of the recipe that was run
    started       time of the start, ISO 8601, in UTC
    seconds       duration of the fit; if the run was resumed, of all parts
    stop_reason   why a callback stopped it
    error         type and message of the error that ended it
    n_epochs      number of epochs that have a row
    monitored     {"name", "direction": "min" or "max", "value": the best one, "epoch": of the best one}
    last, best    the results of the last epoch and of the best one, by name
    directions    "min" or "max" by the name of a result, if its metric declares which is better
    n_parameters  number of trained parameters
    environment   versions by package, device, machine
    seed          of the recipe
    command       the command line
    optimizer     its entry in the recipe
    warnings      messages of the warnings during the fit
    item          what one item of a training batch looks like, a list with an entry per input of the model:
                  {"key": position or keyword, "shape": without the batch, "dtype": such as "float32"}
    weights       {"final": file, "best": file, "reason": why there is no final file}
    code          the text of each Python file next to the recipe, by its path in the folder
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import LearnerProtocol
from callbacks.core.given import paths_of
from callbacks.core.ranks import is_first_process
from callbacks.history.paths import replacing
from callbacks.model.module_state import EXTRA
from callbacks.model.named import COMPILED
from callbacks.model.shards import whole
from learner.files.checkpoint_file import is_plain, save_to
from learner.files.plain import to_plain
from learner.files.safetensors_file import write_safetensors
from learner.files.sync import sync, sync_folder

FACTS = "run.json"
FINAL, BEST = "model", "best"  # names of weights files, without the suffix
KINDS: dict[str, type[Any]] = {  # of values in `run.json`
    **dict.fromkeys(("weights", "code", "environment", "directions", "monitored"), dict),
    **dict.fromkeys(("item", "warnings"), list),
}
SUFFIXES = (".safetensors", ".pt")


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `run.json`, completely or not at all."""
    ordered = {key: facts[key] for key in sorted(facts, key="code".__eq__)}  # the longest comes last
    text = json.dumps(as_json(ordered), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(folder / FACTS) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `run.json`; an empty dict if it is missing or damaged."""
    try:
        return facts_in((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def facts_in(text: str) -> dict[str, Any]:
    """The facts in the text of a `run.json`; what has another type than we write is left out.

    Raises:
        ValueError: the text is not a mapping in JSON.
    """
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("it is not a mapping")
    found = {name: value for name, value in facts.items() if isinstance(value, KINDS.get(name, object))}
    if not isinstance(found.get("monitored", {}).get("name", ""), str):
        del found["monitored"]
    return found


def as_json(value: Any) -> Any:
    """A value for JSON: NaN and infinity become None, and values without a JSON form become text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else str(value)


def weights_file(folder: Path, name: str) -> Path | None:
    """The file with the `"model"` or `"best"` weights of a run's folder; None if there is none.

    If both formats exist, it is the newer one.
    """
    paths = [folder / f"{name}{suffix}" for suffix in SUFFIXES]
    found = [path for path in paths if path.is_file() and (path.suffix != ".pt" or is_plain(path))]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def write_weights(module: nn.Module, folder: Path, name: str) -> Path:
    """Write a state dict, as safetensors if that package is there and can hold it, otherwise by `torch.save`.

    `load_state_dict` of the model itself takes the file as it is: the names have no prefix of a wrapper, and
    a tied weight is stored under each of its names. If there are several processes, only the first one
    writes; if the module is sharded, all of them must call this.

    Returns:
        The file. One of the other format is removed.

    Raises:
        OSError: it cannot be written. An existing file is unchanged.
        ValueError: a weight has no values yet, or the state cannot be read without code.
    """
    state = state_to_write(module)
    is_safe = all(isinstance(each, Tensor) and each.layout is torch.strided for each in state.values())
    suffixes = SUFFIXES if is_safe and importlib.util.find_spec("safetensors") else SUFFIXES[::-1]
    path, other = (folder / f"{name}{suffix}" for suffix in suffixes)
    if not is_first_process():
        return path
    with replacing(path) as part:
        if path.suffix == ".safetensors":
            write_safetensors(part, state)
        else:
            with part.open("wb") as file:
                save_to(file, lambda counted: torch.save(state, counted))
        with part.open("rb") as file:
            sync(file.fileno(), folder)
    sync_folder(folder)
    other.unlink(missing_ok=True)
    return path


def state_to_write(module: nn.Module) -> dict[str, Any]:
    """The state dict as it is written: no names of wrappers, no shared memory, extra state as plain data."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = module.module
    found, seen = {}, set()
    for name, each in module.state_dict().items():
        if is_lazy(each):
            raise ValueError(f"{name!r} has no values yet, because no batch was trained.")
        found[name.replace(COMPILED, "")] = (
            alone(whole(each.detach()), seen) if isinstance(each, Tensor) else plain_extra(name, each)
        )
    return found


def alone(tensor: Tensor, seen: set[Any]) -> Tensor:
    """A contiguous tensor that shares no memory with another one of the file."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return tensor
    storage = tensor.untyped_storage()
    is_whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
    is_shared = storage.data_ptr() in seen
    seen.add(storage.data_ptr())
    return tensor if is_whole and not is_shared else tensor.clone(memory_format=torch.contiguous_format)


def plain_extra(name: str, value: Any) -> Any:
    """The extra state of a module, if it can be read without code."""
    try:
        to_plain({EXTRA: value}, "")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} cannot be loaded without code ({error}).") from error
    return value


def send_files_to(folder: Path, learn: LearnerProtocol) -> None:
    """Make callbacks that write to a relative path write into the run's folder."""
    for callback in learn.callbacks:
        for name, path in paths_of(callback).items():
            setattr(callback, name, type(path)(folder / path))


def shown_path(path: Path) -> str:
    """The path, relative to the current folder if it is below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
