"""`learner doctor`: versions, devices, and what is broken."""

from __future__ import annotations

import importlib
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

import callbacks
import learner
from learner.recipes.names import KINDS, load_entry_point, plug_in_packages
from learner.recipes.user_code import NameFault
from learner.state.fingerprint import own_version

NEEDED = {
    "torch": "torch",
    "matplotlib": "matplotlib",
    "fastcore": "fastcore",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
}
OPTIONAL = {
    "sklearn": "scikit-learn",
    "torchmetrics": "torchmetrics",
    "torchvision": "torchvision",
    "tensorboard": "tensorboard",
    "safetensors": "safetensors",
    "onnx": "onnx",
}


def examine() -> tuple[str, bool]:
    """The report, and whether all that is needed works."""
    faults: list[str] = []
    lines = [
        f"plainlearner  {own_version()} in {Path(learner.__file__).parent}",
        f"python        {platform.python_version()} in {sys.executable}",
        f"system        {platform.platform()}",
        f"callbacks     {sibling(faults)}",
        *(f"{name:<12}  {state_of(module, name, faults, needed=True)}" for module, name in NEEDED.items()),
        *devices(),
        *(f"{name:<12}  {state_of(module, name, faults, needed=False)}" for module, name in OPTIONAL.items()),
        *plug_ins(faults),
    ]
    lines += ["", *(f"FAULT: {fault}" for fault in faults)] if faults else ["", "All that is needed works."]
    return "\n".join(lines), not faults


def sibling(faults: list[str]) -> str:
    """Is the package `callbacks` ours, and is no other `learner` installed?"""
    ours, found = Path(learner.__file__).parents[1], Path(callbacks.__file__).parents[1]
    if ours != found:
        faults.append(
            f"`callbacks` comes from {callbacks.__file__}, not from {ours}: rename the file in the way, or "
            "run from another folder."
        )
    others = [each.name for each in distributions() if each.name.lower() in ("learner", "callbacks")]
    if others:
        faults.append(
            f"another package called {others[0]} is installed and shares our import name: "
            f"pip uninstall {others[0]}, then pip install --force-reinstall plainlearner."
        )
    return "ours" if ours == found else f"NOT OURS: {callbacks.__file__}"


def state_of(module: str, package: str, faults: list[str], *, needed: bool) -> str:
    """The version of a package, or that it is not there or broken, with the command that mends it."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken package can raise anything, and that is what is told
        if installed is None and isinstance(error, ModuleNotFoundError) and not needed:
            return f"not installed; where you need it: pip install {package}"
        words = str(error).strip().split("\n")[0]
        message = f"{package} {installed or ''} is broken: {type(error).__name__}: {words}".replace("  ", " ")
        if needed:
            faults.append(f"{message}. Mend it: pip install --force-reinstall {package}")
        return f"BROKEN: {type(error).__name__}: {words}; pip install --force-reinstall {package}"
    return installed or "there, of unknown version"


def devices() -> list[str]:
    """What can be trained on."""
    lines = [f"cpu           {torch.get_num_threads()} threads, {platform.machine()}"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            lines.append(f"cuda:{number}        {found.name}, {found.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append("mps           there")
    return lines if len(lines) > 1 else [*lines, "accelerator   none"]


def plug_ins(faults: list[str]) -> list[str]:
    """Installed plug-in packages, each loaded to see that it works."""
    lines = []
    for kind, about in KINDS.items():
        for name, entry in plug_in_packages(kind).items():
            origin = f"{about.plural}: {name} of {entry.dist.name if entry.dist else entry.value}"
            try:
                load_entry_point(entry)
                lines.append(f"plug-in       {origin}")
            except NameFault as fault:
                lines.append(f"plug-in       BROKEN: {origin}")
                faults.append(f"{fault.message}. {fault.hint}")
    return lines
