"""What the pages say is what the code does: examples are run, tables are compared."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import outputs  # docs/outputs.py
import pytest

import callbacks
import learner
from callbacks import EVENTS, OPERATIONS, Callback, Cancel, Order
from callbacks.core.foreign_names import EVENT_WORDS
from learner import DEFAULT_CALLBACKS, Learner
from learner.cli.commands import main
from learner.engine.explain import LOOP

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
QUICK_PAGES = [page for page in PAGES if page.parent.name != "course"]  # others: docs/test_notebooks.py
CALLBACKS = {
    name: value
    for name, value in vars(callbacks).items()
    if name in callbacks.__all__ and inspect.isclass(value) and issubclass(value, Callback)
}
del CALLBACKS["Callback"]


def text_of(page: str) -> str:
    """A page's Markdown."""
    return (DOCS / page).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next heading of its level."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text_of(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no heading {heading!r}"
    return found.group(1)


def table(text: str) -> list[list[str]]:
    """The rows of the first table, without its head."""
    found = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = found.group().splitlines() if found else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> list[str]:
    """The text in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


# Examples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", QUICK_PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_example_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs.check(page)


def test_an_output_that_is_wrong_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n\n```output\n2\n```\n")
    assert [example.agrees for example in outputs.examples_of(page)] == [False]


def test_an_example_that_should_raise_and_does_not_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python notest raises\nprint(1)\n```\n")
    with pytest.raises(AssertionError, match="raised nothing"):
        outputs.examples_of(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_output_follows_a_python_fence(page):
    fences = outputs.fences_of(page.read_text(encoding="utf-8"))
    for previous, fence in zip([None, *fences], fences, strict=False):
        if fence.words == ["output"]:
            assert previous is not None
            assert previous.words[0] == "python", f"{page.name}, line {fence.first + 1}"


@pytest.mark.parametrize("page", ["index.md", "article.md"])
def test_every_command_prints_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    shutil.copytree(DOCS.parent / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    for fence in outputs.fences_of(text_of(page)):
        if fence.words == ["console"]:
            command, shown = fence.text.split("\n", 1)
            program, *arguments = command.removeprefix("$ ").split()
            assert program == "learner"
            assert main(arguments) == 0
            assert outputs.matches(shown, capsys.readouterr().out)


def test_the_recipe_of_the_article_is_the_one_of_the_examples():
    shown = [fence.text for fence in outputs.fences_of(text_of("article.md")) if fence.words == ["yaml"]]
    assert shown == [(DOCS.parent / "examples" / "article.yaml").read_text(encoding="utf-8")]


# The loop on one page -------------------------------------------------------------------------------------


def test_the_table_of_events_is_the_contract():
    rows = {names_in(event)[0]: text for event, text in table(section("loop.md", "Events"))}
    assert rows == {event: first_line(getattr(Callback, event)) for event in EVENTS}
    assert list(rows) == list(first_fired())


def first_fired() -> Iterator[str]:
    """The events in the order in which the listing of the loop first has them."""
    seen = set()
    for line in LOOP.splitlines():
        word = line.strip()
        if not word.startswith("[") and word not in seen:
            seen.add(word)
            yield word


def test_the_listing_is_the_one_that_explain_prints():
    assert outputs.fences_of(text_of("loop.md"))[0].text.strip() == LOOP


def test_the_table_of_operations_is_the_contract():
    rows = {names_in(name)[0]: (owner, text) for name, owner, text in table(section("loop.md", "Operations"))}
    assert list(rows) == list(OPERATIONS)
    defaults = {
        operation: callback
        for callback in DEFAULT_CALLBACKS
        for operation in OPERATIONS
        if hasattr(callback, operation)
    }
    for operation, (owner, text) in rows.items():
        if operation in defaults:
            assert names_in(owner) == [defaults[operation].__name__]
        else:
            assert names_in(owner) == ["Learner"]
            assert text == first_line(getattr(Learner, operation))


def test_the_table_of_endings_names_every_cancel_with_its_docstring():
    rows = {names_in(what)[0]: text for what, text in table(section("loop.md", "Endings")) if names_in(what)}
    cancels = {f"raise {cls.__name__}": first_line(cls) for cls in Cancel.__subclasses__()}
    assert {what: text for what, text in rows.items() if what.startswith("raise ")} == cancels
    assert 'learn.stop("why")' in rows


def test_the_table_of_phases_is_the_contract():
    documented = re.findall(r"^ {4}([A-Z]+) = \d  #: (.+)$", inspect.getsource(Order), re.MULTILINE)
    assert [(names_in(phase)[0], what) for phase, what in table(section("loop.md", "Phases"))] == documented
    assert [name for name, _ in documented] == [phase.name for phase in Order]


def test_the_table_of_what_a_hook_sees_is_the_protocol():
    named = {name for row in table(section("loop.md", "What a hook sees")) for name in names_in(row[0])}
    protocol = callbacks.LearnerProtocol
    members = {*protocol.__annotations__, *(name for name in vars(protocol) if not name.startswith("_"))}
    assert named == members


def test_the_table_of_what_a_callback_declares_is_the_contract():
    named = {
        name for row in table(section("callbacks.md", "Declare what it does")) for name in names_in(row[0])
    }
    declared = {name for name in Callback.__annotations__ if name[0] != "_"}
    assert named == declared - {"order", "name", "state"}  # these have sections of their own


# The reference ----------------------------------------------------------------------------------------------


DEFAULT_NAMES = [callback.__name__ for callback in DEFAULT_CALLBACKS]


@pytest.mark.parametrize("package", [callbacks, learner], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name(package):
    entry = rf"^\.\. (?:auto(?!module)\w+|py:data):: {package.__name__}\.(\w+)$"
    there = re.findall(entry, reference(), re.MULTILINE)
    public = sorted(package.__all__)
    missing, extra = set(public) - set(there), set(there) - set(public)
    assert sorted(there) == public, (
        f"docs/api lacks {sorted(missing)} and has {sorted(extra)} too many: "
        f"write a line as `.. autoclass:: {package.__name__}.{public[0]}`, each name once"
    )


def test_the_reference_has_every_method_of_the_learner():
    there = re.findall(r"^\.\. auto\w+:: learner\.Learner\.(\w+)$", reference(), re.MULTILINE)
    assert sorted(there) == sorted({"state", "run_folder", "optimizer_given", *documented_members(Learner)})


def documented_members(cls: type) -> Iterator[str]:
    """The public methods and properties that have a docstring of their own."""
    for name, member in inspect.getmembers(cls):
        is_own = not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
        if is_own and inspect.getdoc(member):
            yield name


def reference() -> str:
    """The text of all pages of the reference."""
    return "".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))


def test_the_reference_lists_the_defaults():
    found = re.search(r"DEFAULT_CALLBACKS\n\n(.*?)\n\n|\Z", reference(), re.DOTALL)
    assert found is not None
    assert re.findall(r"``(\w+)``", found.group(1)) == DEFAULT_NAMES


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in (callbacks, learner) for name in package.__all__]
)
def test_every_public_name_has_a_docstring(package, name):
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip(), f"{package.__name__}.{name} has no docstring"
        for attribute, member in vars(value).items():
            own = inspect.isfunction(member) or isinstance(member, (property, classmethod))
            if own and not attribute.startswith("_") and not is_documented_elsewhere(value, attribute):
                assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute} has no docstring"


def is_documented_elsewhere(cls: type, attribute: str) -> bool:
    """Is this a method whose meaning the contract documents: a hook, an operation, or a metric's three?"""
    hooks = {*EVENTS, *OPERATIONS} if issubclass(cls, Callback) else set()
    return attribute in hooks | {"reset", "update", "compute"}


# Coming from elsewhere ------------------------------------------------------------------------------------

COMING = sorted(f"coming_from/{page.name}" for page in (DOCS / "coming_from").glob("*.md"))


@pytest.mark.parametrize("page", COMING)
def test_what_is_ours_on_the_coming_from_pages_exists(page):
    learn = Learner.__new__(Learner)
    annotated = {name for cls in Learner.__mro__ for name in getattr(cls, "__annotations__", {})}
    for row in (row for row in table_rows(page) if len(row) == 2):
        for name in re.findall(r"\blearn\.(\w+)", " ".join(names_in(row[1]))):
            assert name in annotated or hasattr(type(learn), name), f"{page}: learn.{name}"
        for name in names_in(row[1]):
            if re.fullmatch(r"[A-Z]\w+", name) and name not in Order.__members__:
                assert name in callbacks.__all__ + learner.__all__, f"{page}: {name}"


def table_rows(page: str) -> list[list[str]]:
    """The rows of every table of a page."""
    return [row for part in re.split(r"^## ", text_of(page), flags=re.MULTILINE)[1:] for row in table(part)]


def test_lightnings_events_have_the_name_that_its_page_shows():
    for theirs, ours in table(section("coming_from/lightning.md", "Events")):
        for name in names_in(theirs):
            if name in EVENT_WORDS:
                assert EVENT_WORDS[name] == names_in(ours)[0], name
