"""The page of one run, the result first."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from callbacks.history.drawing import why_undrawn
from callbacks.save.checkpoint_folder import saved_in
from learner.data.tensors import counted
from learner.files.run_files import BEST, FINAL, weights_file
from learner.report.curves import Line, panel, values_of
from learner.report.page import Cell, card, code, image, page, paragraph, section, shown, table
from learner.report.records import Record, is_number
from learner.resume.best_weights import best_in

N_CARDS = 3  # results in addition to the main one
MAX_PANELS = 24
MAX_IMAGES = 40
MAX_ROWS = 1000  # epochs in the table


def run_page(record: Record, predictions: str = "") -> str:
    """The page of a run as HTML, with a section about the predictions of the model."""
    name = "" if record.name in record.title else record.name
    lead = f'<p class="dim">{escape(" · ".join(filter(None, [name, *headline(record)])))}</p>'
    sections = [
        result_section(record),
        curves_section(record),
        predictions,
        section("Plots", images(record)),
        section("What was trained", settings(record)),
        section("Cost and environment", environment(record)),
        section("Warnings", listing(record.facts.get("warnings", ()))),
        section("Resume, reproduce, load", commands(record)),
        section("Left out", listing(record.missing)),
    ]
    return page(record.title, lead, sections)


def headline(record: Record) -> list[str]:
    """How the run ended, when it started, how long it took."""
    facts = record.facts
    started = str(facts.get("started") or "").replace("T", " ").replace("+00:00", " UTC")
    words = [word for word in (str(facts.get("status") or ""), started) if word]
    words += [counted(record.n_epochs, "epoch", "epochs")]
    return words + ([] if record.seconds is None else [duration(record.seconds)])


def result_section(record: Record) -> str:
    """The most important result, then all results with their best epoch."""
    main = record.main_result
    others = [name for name in ordered(record) if name != main and record.best(name) is not None]
    others = [name for name in others if name.startswith("valid_") or name == "train_loss"]
    cards = [best_card(record, name, is_main=name == main) for name in [main, *others[:N_CARDS]] if name]
    body = f'<div class="cards">{"".join(cards)}</div>' if cards else ""
    reasons = [paragraph(f"Stopped in epoch {epoch}: {reason}") for epoch, reason in record.stops]
    if record.facts.get("error"):
        reasons.append(paragraph(f"Ended with an error: {record.facts['error']}", "bad"))
    if not record.results:
        reasons.append(
            paragraph("No epoch has a result: the run ended before the first one, or measures nothing.")
        )
    return section("Result", body, *reasons, result_table(record))


def ordered(record: Record) -> list[str]:
    """The main result, then those whose better direction is known, and of these those of validation."""
    main = record.main_result

    def key(name: str) -> tuple[bool, bool, bool, bool]:
        return name != main, record.best(name) is None, not name.startswith("valid_"), name.endswith("loss")

    return sorted(record.results, key=key)


def best_card(record: Record, name: str, *, is_main: bool) -> str:
    """A large number with its name and epoch."""
    best = record.best(name)
    assert best is not None
    return card(shown(best.value), name, f"best in epoch {best.epoch}", is_main=is_main)


def result_table(record: Record) -> str:
    """Best and last value of each result."""
    rows = []
    for name in ordered(record):
        best = record.best(name)
        last = next(row[name] for row in reversed(record.rows) if is_number(row.get(name)))
        better = "" if best is None else {"min": "lower", "max": "higher"}[best.direction]
        found = [None, None] if best is None else [best.value, best.epoch]
        rows.append([name, *found, last, better])
    return table(["result", "best", "epoch", "last", "better"], rows, caption="Results")


def curves_section(record: Record) -> str:
    """A panel per result, with training and validation together, then the schedule; all numbers below."""
    names = sorted(record.results, key=lambda name: record.best(name) is None)
    if names and (reason := why_undrawn()):
        record.missing.append(f"Curves: {reason}.")
    panels = [result_panel(record, title, group) for title, group in grouped(names).items()]
    panels = [each for each in panels if each]
    if len(panels) > MAX_PANELS:
        record.missing.append(f"{len(panels) - MAX_PANELS} curves: see the table of all epochs.")
    figures = [*panels[:MAX_PANELS], schedule(record)]
    body = f'<div class="panels">{"".join(figures)}</div>' if any(figures) else ""
    return section("Curves", body, all_epochs(record))


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """Results by their name without the data: `loss` has `train_loss`, `valid_loss` and `test_loss`."""
    own = {name: name.partition("_")[2] for name in names if name.startswith(("train_", "valid_"))}
    groups: dict[str, list[str]] = {}
    for name in names:
        fitting = [kind for kind in own.values() if name.endswith(f"_{kind}")]  # of other validation data
        groups.setdefault(own.get(name) or max(fitting, key=len, default=name), []).append(name)
    return groups


def result_panel(record: Record, title: str, names: Sequence[str]) -> str:
    """The curves of one result over epochs, with the best epoch marked."""
    names = sorted(names, key=lambda name: not name.startswith("train_"))  # the colours of `History.plot`
    known = [name for name in names if record.best(name)]
    marked = next((name for name in known if name.startswith("valid_")), known[0] if known else None)
    lines = []
    for name in names:
        best = record.best(name) if name == marked else None
        mark = None if best is None else (best.epoch, best.value)
        lines.append(Line(name, record.epochs, values_of(record.rows, name), mark))
    best = record.best(marked) if marked else None
    caption = f"best {marked}: {shown(best.value)} in epoch {best.epoch}" if best else ""
    return panel(title, caption, lines)


def schedule(record: Record) -> str:
    """The learning rate per step, or per epoch if the steps are not kept."""
    rates = list(record.steps.get("lr", ())) or values_of(record.rows, "lr")
    unit = "step" if record.steps.get("lr") else "epoch"
    known = [rate for rate in rates if math.isfinite(rate)]
    caption = "" if not known else f"from {known[0]:.4g} to {known[-1]:.4g}, highest {max(known):.4g}"
    if len(set(known)) == 1:
        caption = f"constant: {known[0]:.4g}"
    x = range(len(rates)) if unit == "step" else record.epochs
    return panel("learning rate", caption, [Line("lr", x, rates)], unit=unit)


def all_epochs(record: Record) -> str:
    """The whole history as a table that opens on request."""
    names = list(dict.fromkeys(name for row in record.rows for name in row))
    rows = record.rows[-MAX_ROWS:]
    body = table(names, [[row.get(name) for name in names] for row in rows], caption="All epochs")
    title = "All epochs" if len(rows) == len(record.rows) else f"The last {MAX_ROWS} epochs"
    return f"<details><summary>{title}</summary>{body}</details>" if body else ""


def images(record: Record) -> str:
    """The plots in the run's folder."""
    if len(record.images) > MAX_IMAGES:
        record.missing.append(f"{len(record.images) - MAX_IMAGES} images: they are in the run's folder.")
    found = "".join(map(image, record.images[:MAX_IMAGES]))
    return f'<div class="images">{found}</div>' if found else ""


def settings(record: Record) -> str:
    """A row per part with its arguments, and the recipe in full."""
    parts: dict[str, list[str]] = {}
    for path, value in record.recipe.items():
        name, argument = split_path(path)
        words = parts.setdefault(name, [])
        words.append(f"{argument}: {value}" if argument else value)
    rows = [[name, ", ".join(words)] for name, words in parts.items()]
    text = code(record.recipe_text) if record.recipe_text else ""
    body = table(["", ""], rows, caption="Settings of the run")
    return body + (f"<details><summary>The recipe as YAML</summary>{text}</details>" if text else "")


def split_path(path: str) -> tuple[str, str]:
    """The part and its argument: `optimizer` and `lr`, or `callbacks.EarlyStopping` and `patience`."""
    keys = path.split(".")
    n_keys = 2 if keys[0] == "callbacks" or (len(keys) > 1 and keys[1].isdecimal()) else 1
    return ".".join(keys[:n_keys]), ".".join(keys[n_keys:])


def environment(record: Record) -> str:
    """Time, parameters, seed, device and versions."""
    facts = record.facts
    times = [row["seconds"] for row in record.rows if is_number(row.get("seconds"))]
    rows: list[list[Any]] = [["time", None if record.seconds is None else duration(record.seconds)]]
    rows.append(["time per epoch", duration(median(times)) if times else None])
    rows.append(
        ["trained parameters", f"{facts['n_parameters']:,}" if is_number(facts.get("n_parameters")) else None]
    )
    rows += [[name, facts.get(name)] for name in ("seed", "command")]
    rows += facts.get("environment", {}).items()
    return table(
        ["", ""], [[name, Cell(str(value))] for name, value in rows if value is not None], caption="Cost"
    )


def commands(record: Record) -> str:
    """The exact commands to resume, reproduce and load the run."""
    folder = record.folder
    if folder is None:
        return commands_in_python(record.facts.get("checkpoints"))
    path = shlex.quote(str(folder))
    weights = weights_file(folder, BEST) or weights_file(folder, FINAL)
    parts = []
    if saved_in(folder):
        parts += ["<h3>Resume</h3>", code(f"learner resume {path}")]
    if (folder / "recipe.yaml").is_file():
        parts += ["<h3>Reproduce</h3>", code(f"learner run {shlex.quote(str(folder / 'recipe.yaml'))}")]
    if weights is not None:
        parts += ["<h3>Load</h3>", code(loading(folder, weights))]
    return "".join(parts)


def commands_in_python(folder: str | None) -> str:
    """How to resume a fit and load its weights, for a learner that saves checkpoints in a folder."""
    if folder is None:
        return ""
    parts = ["<h3>Resume</h3>", code("learn.fit(n_epochs, resume='auto')  # in the same script")]
    if best_in(Path(folder)) is not None:
        text = f"learn = Learner(model, Data([]))  # prediction needs no data\nlearn.load_best({folder!r})"
        parts += ["<h3>Load</h3>", code(text)]
    return "".join(parts)


def loading(folder: Path, weights: Path) -> str:
    """Python that loads the run: with its recipe if there is one, and the weights alone."""
    is_safe = weights.suffix == ".safetensors"
    reader = "from safetensors.torch import load_file" if is_safe else "import torch"
    call = f"load_file({str(weights)!r})" if is_safe else f"torch.load({str(weights)!r}, weights_only=True)"
    whole = f"import learner\n\nlearn = learner.open_run({str(folder)!r})\n\n"
    alone = f"# or the weights alone, for your own model:\n{reader}\n\nmodel.load_state_dict({call})"
    return (whole if (folder / "recipe.yaml").is_file() else "") + alone


def listing(items: Iterable[Any]) -> str:
    """A list of plain texts."""
    found = "".join(f"<li>{escape(str(item))}</li>" for item in items)
    return f"<ul>{found}</ul>" if found else ""


def duration(seconds: float) -> str:
    """A time in a unit that suits it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
