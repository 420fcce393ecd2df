"""YAML without values that it misreads, and a tree with the position of each node."""

from __future__ import annotations

import math
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.recipes.recipe_errors import Place, Problem, RecipeError
from learner.recipes.yaml_tree import decode, dump, parse, read_recipe


def plain(text: str):
    return parse(text, "recipe.yaml").plain()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-3", -3),
        ("1_000", 1000),
        ("010", 10),
        ("12:30", "12:30"),
        ("2021-01-01", "2021-01-01"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ('"null"', "null"),
        ("1 step", "1 step"),
        ("models.py:Net", "models.py:Net"),
        ("-.inf", -math.inf),
        ("0x1f", "0x1f"),
    ],
)
def test_a_plain_word_means_what_it_looks_like(written, meant):
    found = plain(f"key: {written}")["key"]
    assert found == meant
    assert type(found) is type(meant)


def test_every_value_knows_its_line_and_column():
    tree = parse("data: digits\nfit:\n  epochs: 10\n", "recipe.yaml")
    epochs = tree.value["fit"].value["epochs"]
    assert str(epochs.place) == "recipe.yaml:3:11"
    assert str(epochs.key_place) == "recipe.yaml:3:3"
    assert epochs.place.text == "  epochs: 10"


def test_an_empty_value_is_distinguished_from_null():
    tree = parse("a:\nb: null\n", "recipe.yaml")
    assert [tree.value[key].written for key in "ab"] == [False, True]


def test_a_byte_order_mark_and_windows_line_ends_are_read():
    assert plain(decode(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "recipe.yaml")) == {"a": 1, "b": 2}


def test_an_alias_bomb_is_refused_at_once():
    text = "a: &a [x]\n" + "".join(f"b{n}: &b{n} [{', '.join(['*a'] * 9)}]\n" for n in range(50))
    begun = time.monotonic()
    with pytest.raises(RecipeError, match="anchors"):
        plain(text)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_endless_nesting_is_refused(opening):
    with pytest.raises(RecipeError, match="levels"):
        plain(opening * 5000)


def test_a_file_too_large_for_a_recipe_is_refused():
    with pytest.raises(RecipeError, match="at most"):
        decode(b"a: 1\n" * 100_000, "recipe.yaml")


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system [ls]", "!!python/name:os.system", "!own 3", "!!int '3'"]
)
def test_tags_are_refused(tag):
    with pytest.raises(RecipeError, match="tags"):
        plain(f"a: {tag}")


def test_all_duplicate_keys_are_reported_together():
    with pytest.raises(RecipeError) as caught:
        plain("a: 1\na: 2\nb: {c: 1, c: 2}\n")
    assert [(problem.place.line, problem.place.column) for problem in caught.value.problems] == [
        (2, 1),
        (3, 11),
    ]


def test_control_characters_are_not_printed():
    with pytest.raises(RecipeError) as caught:
        plain("a: [\u009b31m\u202e")
    shown = str(caught.value)
    assert "\u009b" not in shown
    assert "\u202e" not in shown


def test_a_long_line_is_shown_around_its_caret():
    with pytest.raises(RecipeError) as caught:
        plain("a: {" + "x: 1, " * 1 + "y: " + "z" * 300 + ", x: 2}")
    _, line, caret, *_ = str(caught.value).split("\n")
    assert len(line) <= 80
    assert line[caret.index("^")] == "x"


@pytest.mark.parametrize("columns", [60, 80, 110])
def test_messages_and_hints_fit_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    problem = Problem(Place("recipe.yaml", 3, 1, "loss: mse"), "many words " * 30, "what to do " * 30)
    lines = str(RecipeError([problem])).split("\n")
    assert columns - 10 <= max(map(len, lines)) <= columns
    assert str(RecipeError([problem])).split() == [
        *("recipe.yaml:3:1:", *("many", "words") * 30),
        *("loss:", "mse", "^", *("what", "to", "do") * 30),
    ]


words = st.text(st.sampled_from("ae1.-_:' #\"{}[]&*!|>%@~nulltrueon\\ß\N{EURO SIGN}\n"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["n", "on", "lr"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["data", "on", "n", "y"]), values))
def test_what_is_written_reads_back_as_the_same(tree):
    assert plain(dump({"recipe": tree})) == {"recipe": tree}


@given(st.text())
def test_any_text_is_a_tree_or_has_problems(text):
    with suppress(RecipeError):
        assert str(parse(text, "recipe.yaml").place) == "recipe.yaml:1:1" or text.strip()


@given(st.binary())
def test_any_bytes_are_text_or_have_problems(content):
    with suppress(RecipeError):
        assert decode(content, "recipe.yaml").encode() in (content, content.removeprefix(b"\xef\xbb\xbf"))


@pytest.mark.parametrize("text", ["a: 1\n" * 3000, "{" + "a: 1, " * 3000 + "}"], ids=["lines", "one line"])
def test_of_thousands_of_problems_only_some_are_shown(text):
    with pytest.raises(RecipeError, match="duplicate key") as caught:
        plain(text)
    assert len(caught.value.problems) == 2999
    assert str(caught.value).endswith("... and 2899 more")


def test_a_file_too_large_for_a_recipe_is_not_read(tmp_path):
    path = tmp_path / "data.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte, of which the disk holds nothing
    with pytest.raises(RecipeError, match="this file has 1,099,511,627,776 bytes or more"):
        read_recipe(path)
