"""Draw the rooms of both floors from the imports of the code: `python docs/rooms.py`.

Each row is a room, in the order that `lint-imports` checks (see `pyproject.toml`): a room imports only rooms
below it. An arc on the right is an import downwards. An import upwards would be drawn on the left, in red.
"""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK = "#767676"  # readable on light and on dark pages, which shine through the picture
ROOT = Path(__file__).resolve().parent.parent
WIDTH = 8.6  # of a room's box; its height is below 1, the distance between two rows


def main() -> None:
    """Draw both floors, one above the other, into `docs/pictures/rooms.png`."""
    figure = Figure(figsize=(9, 15), layout="constrained", facecolor="none")
    floors = {floor: layers_of(floor) for floor in ("learner", "callbacks")}
    panels = figure.subplots(2, 1, height_ratios=[len(layers) for layers in floors.values()])
    for ax, (floor, layers) in zip(panels, floors.items(), strict=True):
        draw_floor(ax, floor, layers)
    figure.savefig(ROOT / "docs" / "pictures" / "rooms.png", dpi=100)


def layers_of(floor: str) -> list[str]:
    """Rooms from top to bottom, as the contract for this floor lists them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    return next(each["layers"] for each in contracts if each.get("containers") == [floor])


def draw_floor(ax: Axes, floor: str, layers: list[str]) -> None:
    """A box per room, an arc per pair of rooms where one imports the other."""
    height = {room: len(layers) - n for n, room in enumerate(layers)}
    for room in layers:
        draw_room(ax, floor, room, height[room])
    for (above, below), n_imports in imports_between(floor, layers).items():
        is_down = height[above] > height[below]
        x, bend = (WIDTH, -0.35) if is_down else (0, -0.35)
        arc = FancyArrowPatch(
            (x, height[above] - 0.1),
            (x, height[below] + 0.1),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.4 + 0.12 * n_imports**0.5,
            color=INK if is_down else "red",
        )
        ax.add_patch(arc)
    ax.set(xlim=(-0.3, WIDTH + 2.6), ylim=(0.3, len(layers) + 0.8))
    ax.set_title(f"{floor}/", color=INK)
    ax.axis("off")


def draw_room(ax: Axes, floor: str, room: str, y: int) -> None:
    """Its name, what it holds, and how large it is."""
    files = files_of(floor, room)
    lines = sum(len(each.read_text(encoding="utf-8").splitlines()) for each in files)
    size = f"{len(files)} files, {lines:,} lines" if len(files) > 1 else f"{lines:,} lines"
    ax.add_patch(FancyBboxPatch((0.05, y - 0.36), WIDTH - 0.1, 0.72, "round,pad=0.03", fc="none", ec=INK))
    ax.text(
        0.15,
        y + 0.12,
        files[0].name if len(files) == 1 else room,
        weight="bold",
        size=10,
        va="center",
        color=INK,
    )
    ax.text(WIDTH - 0.15, y + 0.12, size, size=8, va="center", ha="right", color=INK)
    ax.text(0.15, y - 0.19, summary_of(files[0]), size=7.5, va="center", color=INK)


def files_of(floor: str, room: str) -> list[Path]:
    """The files of a room, which is a folder or one file."""
    file = ROOT / floor / f"{room}.py"
    return [file] if file.exists() else sorted((ROOT / floor / room).glob("*.py"))


def summary_of(path: Path) -> str:
    """The first sentence of its docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def imports_between(floor: str, layers: list[str]) -> Counter[tuple[str, str]]:
    """How many names one room imports from another."""
    found: Counter[tuple[str, str]] = Counter()
    for room in layers:
        for path in files_of(floor, room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    package, _, rest = node.module.partition(".")
                    for other in [rest.split(".")[0]] if rest else [each.name for each in node.names]:
                        if package == floor and other in layers and other != room:
                            found[room, other] += len(node.names)
    return found


if __name__ == "__main__":
    main()
