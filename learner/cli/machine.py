"""`learner doctor`: versions, devices, and broken packages."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import torch

import callbacks
import learner
from learner.cli.parser import Commands, Parser, add_plain_command
from learner.recipes.names import KINDS, installed, load_entry_point
from learner.recipes.user_code import UnusableName
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


def add_commands(commands: Commands[Parser]) -> None:
    """Add the command to the command line."""
    doctor = add_plain_command(commands, "doctor", "show versions, devices and broken packages")
    doctor.set_defaults(function=do_doctor)


def do_doctor(options: argparse.Namespace) -> int:
    """Examine the machine."""
    report, healthy = examine()
    print(report)
    return 0 if healthy else 1


def examine() -> tuple[str, bool]:
    """The report, and whether all required packages work."""
    problems: list[str] = []
    lines = [
        f"plainlearner  {own_version()} in {Path(learner.__file__).parent}",
        f"python        {platform.python_version()} in {sys.executable}",
        f"system        {platform.platform()}",
        f"callbacks     {sibling(problems)}",
        *states_of(NEEDED, problems, needed=True),
        *devices(),
        *states_of(OPTIONAL, problems, needed=False),
        *packages(problems),
    ]
    result = [f"PROBLEM: {problem}" for problem in problems] or ["All required packages work."]
    return "\n".join([*lines, "", *result]), not problems


def sibling(problems: list[str]) -> str:
    """Check that the package `callbacks` is ours, and that no other `learner` is installed."""
    ours, found = Path(learner.__file__).parents[1], Path(callbacks.__file__).parents[1]
    if ours != found:
        problems.append(
            f"`callbacks` comes from {callbacks.__file__}, not from {ours}: rename that file, or "
            "run from another folder."
        )
    others = [each.name for each in distributions() if each.name.lower() in ("learner", "callbacks")]
    if others:
        problems.append(
            f"another package, {others[0]}, is installed and uses our import name: pip uninstall "
            f"{others[0]}, then pip install --force-reinstall plainlearner."
        )
    return "ours" if ours == found else f"NOT OURS: {callbacks.__file__}"


def states_of(packages: dict[str, str], problems: list[str], *, needed: bool) -> list[str]:
    """A line for each package."""
    states = {name: state_of(module, name, problems, needed=needed) for module, name in packages.items()}
    return [f"{name:<12}  {state}" for name, state in states.items()]


def state_of(module: str, package: str, problems: list[str], *, needed: bool) -> str:
    """The version of a package, or its problem with the command that fixes it."""
    try:
        found = version(package)
    except PackageNotFoundError:
        found = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - a broken package can raise any error, which is reported
        if found is None and isinstance(error, ModuleNotFoundError) and not needed:
            return f"not installed; if you need it: pip install {package}"
        words = str(error).strip().split("\n")[0]
        message = f"{package} {found or ''} is broken: {type(error).__name__}: {words}".replace("  ", " ")
        if needed:
            problems.append(f"{message}. To fix it: pip install --force-reinstall {package}")
        return f"BROKEN: {type(error).__name__}: {words}; pip install --force-reinstall {package}"
    return found or "installed, unknown version"


def devices() -> list[str]:
    """The devices."""
    lines = [f"cpu           {torch.get_num_threads()} threads, {platform.machine()}"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(number)
            lines.append(f"cuda:{number}        {found.name}, {found.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        lines.append("mps           available")
    return lines if len(lines) > 1 else [*lines, "accelerator   none"]


def packages(problems: list[str]) -> list[str]:
    """The entry points of installed packages, each loaded to check that it works."""
    lines = []
    for kind, about in KINDS.items():
        for name, entry in installed(kind).items():
            origin = f"{about.plural}: {name} of {entry.dist.name if entry.dist else entry.value}"
            try:
                load_entry_point(entry)
                lines.append(f"package       {origin}")
            except UnusableName as problem:
                lines.append(f"package       BROKEN: {origin}")
                problems.append(f"{problem.message}. {problem.hint}")
    return lines
