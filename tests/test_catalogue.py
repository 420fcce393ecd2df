"""Every callback has an entry in the catalogue, all of one shape, that says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import callbacks
import learner
from callbacks import Order
from callbacks.core.foreign_names import (
    ARGUMENT_WORDS,
    CALLBACK_WORDS,
    DATA_WORDS,
    EVENT_WORDS,
    INTERPRETATION_WORDS,
    LEARNER_WORDS,
    PACKAGE_WORDS,
    RECIPE_WORDS,
)
from learner.recipes.names import table as names_of
from tests.test_docs import CALLBACKS, DEFAULT_NAMES, DOCS, names_in, outputs, section, table, text_of

INDEX = "catalogue/index.md"
PARTS = ["In a checkpoint:", "Avoid it when", "In other frameworks:", "Arguments:"]
ENTRIES = [*CALLBACKS, "on"]
#: Those that draw, also if they have no method `plot`.
DRAW = {"Progress", "PlotSnapshots", "Recorder"}
LISTED = re.compile(r"^\| \[`(\w+)`\]\((\w+)\.md#(\w+)\)( •)? \| (.+) \|$", re.MULTILINE)


def listed() -> dict[str, tuple[str, str, bool, str]]:
    """Of each callback in the tables of aims: page, anchor, is it a default, and what it does."""
    aims = text_of(INDEX).split("\n## ", 1)[1]
    return {name: (page, anchor, bool(dot), text) for name, page, anchor, dot, text in LISTED.findall(aims)}


def entry(name: str) -> str:
    """The text of an entry."""
    return section(f"catalogue/{listed()[name][0]}.md", name)


def facts(name: str) -> dict[str, str]:
    """The parts at the end of an entry, by their labels."""
    found = re.findall(r"^\* \*\*(.+?)\*\*((?:.*\n)(?:  .*\n?)*)", entry(name) + "\n", re.MULTILINE)
    return {label: " ".join(text.split()) for label, text in found}


def test_the_tables_of_the_catalogue_list_every_callback_once():
    found = [name for name, *_ in LISTED.findall(text_of(INDEX).split("\n## ", 1)[1])]
    assert sorted(found) == sorted(ENTRIES), f"docs/{INDEX} is out of date"


def test_each_page_of_the_catalogue_has_the_entries_that_the_index_lists():
    for page in {page for page, *_ in listed().values()}:
        headings = re.findall(r"^## (\w+)$", text_of(f"catalogue/{page}.md"), re.MULTILINE)
        assert headings == [name for name, (where, *_) in listed().items() if where == page]


def test_the_tables_mark_the_defaults():
    assert {name for name, (_, _, is_default, _) in listed().items() if is_default} == set(DEFAULT_NAMES)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_starts_with_what_the_index_says(name):
    _, anchor, _, text = listed()[name]
    assert anchor == name.lower()
    assert entry(name).strip().split("\n\n")[0] == text


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_an_example(name):
    fences = outputs.fences_of(entry(name))
    assert any(fence.words[0] == "python" and name in fence.text for fence in fences) or name in DEFAULT_NAMES


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_ends_with_its_parts_in_one_order(name):
    found = facts(name)
    assert list(found) == PARTS
    assert all(text.endswith(".") for text in found.values())
    assert f"`callbacks.{name}`" in found["Arguments:"]


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_entry_names_the_phase(name):
    phase = re.search(r"\*\*Phase:\*\* `(\w+)`", facts(name)["Arguments:"])
    assert phase is not None
    assert phase.group(1) == Order(CALLBACKS[name].order).name


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_entry_names_the_state_that_a_checkpoint_holds(name):
    text = facts(name)["In a checkpoint:"]
    assert sorted(names_in(text)) == sorted(CALLBACKS[name].state)
    assert text.startswith("nothing") == (not CALLBACKS[name].state)


@pytest.mark.parametrize("name", CALLBACKS)
def test_an_entry_of_a_callback_that_draws_shows_a_picture(name):
    if name in DRAW or any(each.startswith("plot") for each in dir(CALLBACKS[name])):
        pictures = re.findall(r"^!\[.{20,}\]\((\S+)\)$", entry(name), re.MULTILINE)
        assert pictures
        assert all((DOCS / "catalogue" / picture).is_file() for picture in pictures)


def test_every_page_shows_the_same_learner():
    pages = {page for page, *_ in listed().values()}
    assert len({outputs.fences_of(text_of(f"catalogue/{page}.md"))[0].text for page in pages}) == 1


def test_the_catalogue_has_every_metric_of_ours():
    rows = re.findall(r"^\| (`.+?) \|", section("catalogue/metrics.md", "Our own metrics"), re.MULTILINE)
    assert {name.split("(")[0] for row in rows for name in names_in(row)} == set(names_of("metric"))


# Names in other frameworks --------------------------------------------------------------------------------

OTHER = "other_names.md"
FRAMEWORKS = ["fastai", "Lightning", "Keras", "Hugging Face", "Ignite", "skorch", "Composer"]


def elsewhere(name: str) -> set[tuple[str, str]]:
    """The pairs of framework and name in an entry; a library without a section of its own is in brackets."""
    found = set()
    for part in facts(name)["In other frameworks:"].split("; "):
        framework = part.split("`")[0].strip()
        where, suffix = (framework, "") if framework in FRAMEWORKS else ("Other libraries", f" ({framework})")
        found |= {(where, f"`{each}`{suffix}") for each in names_in(part)}
    return found


def other_names() -> list[tuple[str, str, str]]:
    """The rows of the tables of frameworks: framework, name there, what it is here."""
    headings = [*FRAMEWORKS, "Other libraries"]
    return [(each, theirs, here) for each in headings for theirs, here in table(section(OTHER, each))]


def pairs(heading: str) -> dict[str, str]:
    """What each name of a table is here."""
    return {name: here for theirs, here in table(section(OTHER, heading)) for name in names_in(theirs)}


def test_the_names_of_the_entries_are_the_rows_that_link_to_them():
    linked = {
        (framework, theirs, name)
        for framework, theirs, here in other_names()
        for name in re.findall(r"\[`(\w+)`\]\(catalogue/\w+\.md#\w+\)(?=,|$)", here)
        if here.startswith("[")
    }
    named = {(*each, name) for name in ENTRIES for each in elsewhere(name)}
    assert not named ^ linked, f"docs/{OTHER} and the entries differ: write each name in both"


def test_every_callback_of_other_frameworks_has_a_row():
    lines = (Path(__file__).parent / "peers.txt").read_text(encoding="utf-8").splitlines()
    for peer, names in (line.split(": ") for line in lines if not line.startswith("#")):
        there = {re.findall(r"\w+", theirs)[0] for each, theirs, _ in other_names() if each == peer}
        assert not set(names.split()) - there, f"docs/{OTHER} does not say what these of {peer} are here"


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("Hooks", EVENT_WORDS),
        ("Attributes and methods", LEARNER_WORDS),
        ("Data", DATA_WORDS),
        ("Interpretation", INTERPRETATION_WORDS),
    ],
)
def test_the_page_and_the_error_messages_agree_on_attributes(heading, words):
    shown = {name: here.replace("`", "") for name, here in pairs(heading).items()}
    assert shown == {name: meant.replace("`", "") for name, meant in words.items()}


def test_the_page_and_the_error_messages_agree_on_arguments():
    assert {name: tuple(names_in(here)) for name, here in pairs("Arguments").items()} == ARGUMENT_WORDS


def test_the_page_and_the_error_messages_agree_on_the_keys_of_a_recipe():
    known = {name: meant for name, meant in RECIPE_WORDS.items() if name != "plugins"}  # vocabulary: quoted
    assert {name: here.strip("`") for name, here in pairs("Keys of a recipe").items()} == known


def test_the_page_and_the_error_messages_agree_on_names_to_import():
    ours = {*callbacks.__all__, *learner.__all__}
    for word, meant in {**CALLBACK_WORDS, **PACKAGE_WORDS}.items():
        here = " ".join(here for _, theirs, here in other_names() if re.match(rf"`{word}\b", theirs))
        if not meant.startswith("from learner."):  # a name of ours, in another module
            names = [each for each in re.findall(r"[A-Za-z]\w*", meant) if each in ours and each != "on"]
            assert here or word in names, f"docs/{OTHER} has no row for {word}, which is {meant}"
            assert not names or any(each in here for each in names) or word in names, (word, meant, here)
