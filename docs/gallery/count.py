"""Count and time the ports and recipes of the gallery, and write the numbers into its pages.

    python docs/gallery/count.py

The lines by hand are the lines of code in the training loops, including the `for` or `while`, without blank
lines and comments. The loops are those in `by_hand` of a port, or in `main` of the script that
`learner to-script` writes for a recipe. The lines here are those that a port adds to the library's loop: the
functions and methods that its page shows under "The same training with a learner", and functions within
`make_learner`. Constructors, settings and what `by_hand` also calls are not counted.

The line after a comment such as `% port generative.dcgan` or `% recipe digits` is replaced.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import time
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MARK = re.compile(r"^% (port|recipe) (\S+)\n(.*)$", re.MULTILINE)


def main() -> None:
    """Write the numbers of all cards."""
    for path in (HERE / "index.md", HERE / "recipes.md"):
        path.write_text(MARK.sub(card, path.read_text(encoding="utf-8")), encoding="utf-8")


def card(found: re.Match[str]) -> str:
    """A mark and the line of numbers after it; only a port is timed."""
    kind, name, _ = found.groups()
    numbers = f"{of_port(name)} · {seconds_of(name):.2f} s" if kind == "port" else of_recipe(name)
    return f"% {kind} {name}\n{numbers}"


def of_port(name: str) -> str:
    """The numbers that do not depend on the machine: lines of the loops, and equal trained numbers."""
    source = (ROOT / "tests" / "ports" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    parts = {
        each.name: each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef | ast.ClassDef)
    }
    by_hand = parts["by_hand"]
    used = {each.id for each in ast.walk(by_hand) if isinstance(each, ast.Name)}
    shown = [parts[each] for each in composition_of(name) if each not in used]
    added = [each for part in shown for each in functions_in(part)]
    return (
        words(n_lines(source, loops_in(by_hand)), n_lines(source, added))
        + f" · {n_equal(name):,} identical weights"
    )


def of_recipe(name: str) -> str:
    """The lines of the loops in the script that does the same; the recipe itself has none."""
    source = script_of(name)
    (function,) = [each for each in ast.parse(source).body if getattr(each, "name", "") == "main"]
    return words(n_lines(source, loops_in(function)), 0)


def words(by_hand: int, here: int) -> str:
    """Both counts as a card shows them."""
    return f"**Loop: {by_hand} lines by hand, {here or 'none'} with a learner**"


def composition_of(name: str) -> list[str]:
    """The classes and functions that the page of a port shows as its learner."""
    page = (HERE / f"{name.replace('.', '/')}.md").read_text(encoding="utf-8")
    shown = page.split("## The same training with a learner")[1].split("\n## ")[0]
    return re.findall(r":pyobject: (\w+)", shown)


def functions_in(part: ast.AST) -> Iterator[ast.AST]:
    """A function itself, the methods of a class without its constructor, the functions in `make_learner`."""
    if isinstance(part, ast.FunctionDef) and part.name != "make_learner":
        yield part
        return
    for each in ast.iter_child_nodes(part):
        if isinstance(each, ast.FunctionDef) and each.name != "__init__":
            yield each


def loops_in(node: ast.AST) -> Iterator[ast.AST]:
    """The outermost loops of a function."""
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.For | ast.While):
            yield each
        else:
            yield from loops_in(each)


def n_lines(source: str, parts: Iterable[ast.AST]) -> int:
    """The lines of code of some parts of a source."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_docstring = token.line.strip().startswith('"""')
        if token.type not in silent and not is_docstring:
            code.update(range(token.start[0], token.end[0] + 1))
    inside: set[int] = set()
    for each in parts:
        inside.update(range(each.lineno, each.end_lineno + 1))  # type: ignore[attr-defined]
    return len(code & inside)


def n_equal(name: str) -> int:
    """How many trained numbers of a port the tests compare."""
    port = port_of(name)
    return sum(each.numel() for each in port.weights(port.make_learner()).values())


def seconds_of(name: str) -> float:
    """The median time of five trainings with the learner."""
    port, times = port_of(name), []
    for _ in range(5):
        start = time.perf_counter()
        port.make_learner().fit(port.n_epochs)
        times.append(time.perf_counter() - start)
    return sorted(times)[2]


def port_of(name: str):
    """A port; the tests are not a package, so their folder must be on the path."""
    sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]
    from ports import harness

    return harness.load(name)


def script_of(name: str) -> str:
    """The script of plain PyTorch that `learner to-script` writes of a recipe of the examples."""
    from learner.cli.commands import main as learner

    own = ["callbacks.GradientNorm=null"] if name == "my_recipe" else []  # code of its own has no script form
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "train.py"
        recipe = str(ROOT / "examples" / f"{name}.yaml")
        assert learner(["to-script", "--output", str(path), recipe, *own]) == 0
        return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
