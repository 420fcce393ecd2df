"""The words of the project, as `.ci/vocabulary.py` checks them."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import pytest


def load() -> types.ModuleType:
    """The script as a module."""
    path = Path(__file__).parent.parent / ".ci" / "vocabulary.py"
    spec = importlib.util.spec_from_file_location("vocabulary", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vocabulary = load()


def test_all_files_use_the_words_of_the_project(capsys):
    assert vocabulary.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A plug-in is added.", "plug-in"),
        ("from here import as_plugin", "plugin"),
        ("def test_a_plug_in_is_called(): ...", "plug in"),
        ("class GoingOn: ...", "Going On"),
        ("def doer_of(): ...", "doer"),
        ("It calls every listener.", "listener"),
        ("Nobody hears it.", "hears"),
        ("Every fault is told.", "fault"),
        ("It says of a file what it holds.", "says of"),
        ("from the begin of the fit", "the begin"),
        ("# a fit goes\n# on from a checkpoint", "goes on"),
        ('warn("the fit goes "\n     "on")', "goes on"),
        ("where the run was cut", "was cut"),
        ("after a cut", "a cut"),
        ("It is read anew.", "anew"),
        ("how to mend it", "mend"),
        ("an error with the cure", "cure"),
        ("Where there is a name, it is none.", "is none"),
        ("what is no callback", "is no"),
        ("a class of whose methods one fails", "of whose"),
        ("a class of which a method fails", "of which"),
        ("It hangs on the seed.", "hangs on"),
        ("It bears being called twice.", "bears"),
        ("It prints a line an epoch.", "line an epoch"),
        ("It puts the best weights back.", "puts the best weights back"),
    ],
)
def test_a_word_that_the_project_does_not_use_is_found(text, word):
    assert (1, word) in [(line, found) for line, found, _ in vocabulary.forbidden(text)]


@pytest.mark.parametrize(
    "text",
    [
        "It listens to an event.",
        "the pytest plugin runs each example",
        "items that cannot be told apart",
        "if path is None: path = folder",
        "n = file.tell()",
        "NaN if there are none",
        "There is no validation pass.",
        "The file is no longer than 300 lines.",
        "The line is cut off, the name is cut short.",
        "a tensor that goes on the device",
        "300 bytes, of which 8 are a number",
        "page faults and segmentation faults",
        "1000 items a second",
        "calls the metric once a batch is there",
    ],
)
def test_what_looks_like_such_a_word_is_allowed(text):
    assert not list(vocabulary.forbidden(text))


def test_a_finding_names_the_file_the_line_and_the_word_to_use(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# A page\n\nA plug-in.\n")
    assert vocabulary.main([str(page)]) == 1
    assert capsys.readouterr().out == f"{page}:3: 'plug-in' -> callback\n"


def test_the_name_of_a_file_is_read_too(tmp_path, capsys):
    (tmp_path / "my_plugin.py").touch()
    assert vocabulary.main([str(tmp_path)]) == 1
    assert "the name has 'plugin' -> callback" in capsys.readouterr().out


def test_quotations_are_left_out(tmp_path):
    (tmp_path / "page.md").write_text("> A plug-in, as they call it.\n")
    (tmp_path / "page.py").write_text("Trainer(plugins=[])  # vocabulary: quoted\n")
    assert vocabulary.main([str(tmp_path)]) == 0
