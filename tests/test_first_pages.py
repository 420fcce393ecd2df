"""The pages that newcomers read first: short sentences, and quotations that are in the scripts."""

from __future__ import annotations

import re
import signal
import tomllib
from pathlib import Path

import outputs  # docs/outputs.py
import pytest
from markdown_it import MarkdownIt

from callbacks import Callback
from learner import Learner

ROOT = Path(__file__).parent.parent
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
FIRST = [ROOT / "README.md", DOCS / "index.md", DOCS / "install.md", DOCS / "first_model.md"]
LONGEST_SENTENCE, LONGEST_PAGE = 35, 1500


def sentences(page: Path) -> list[str]:
    """The sentences of a page's text: paragraphs, items of lists and cells of tables, without code blocks."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    texts = [token.content for token in tokens if token.type == "inline"]
    return [part for text in texts for part in re.split(r"(?<=[.!?])\**\s+", text)]


@pytest.mark.parametrize("page", FIRST, ids=lambda page: page.name)
def test_the_first_pages_have_short_sentences(page):
    found = [each for each in sentences(page) if len(each.split()) > LONGEST_SENTENCE]
    assert not found, f"{page.name}: write sentences of at most {LONGEST_SENTENCE} words"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_no_page_is_too_long(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= LONGEST_PAGE


def test_the_install_page_has_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(extras["optional-dependencies"])


def quotations() -> list[str]:
    """The Python that the page on moving a loop quotes."""
    tokens = MarkdownIt().parse((DOCS / "move_your_loop.md").read_text(encoding="utf-8"))
    return [token.content for token in tokens if token.info.startswith("python")]


def lines_of(text: str) -> list[str]:
    """The lines of a text, without indentation and empty lines."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_page_on_moving_a_loop_quotes_the_scripts():
    scripts = ["\n".join(lines_of(path.read_text(encoding="utf-8"))) for path in EXAMPLES.glob("shapes*.py")]
    quoted = ["\n".join(lines_of(each)) for each in quotations()]
    missing = [each for each in quoted if not any(each in script for script in scripts)]
    assert not missing, "docs/move_your_loop.md is out of date"


def test_the_page_on_moving_a_loop_has_every_line_of_the_loop():
    text = (EXAMPLES / "shapes_loop.py").read_text(encoding="utf-8")
    body = text.split("def main(")[1].split("if __name__")[0].split("\n", 2)[2]
    shown = {line for each in quotations() for line in lines_of(each)}
    assert [line for line in lines_of(body) if line not in shown] == []


class CtrlC(Callback):
    """Presses Ctrl-C in the fourth epoch; in a resumed fit, stops at the end of the epoch."""

    def after_batch(self, learn):
        if learn.training and not learn.resumed and learn.epoch == 3 and learn.batch_idx == 9:
            signal.raise_signal(signal.SIGINT)

    def after_epoch(self, learn):
        if learn.resumed:
            learn.stop("enough")


def test_the_script_of_the_first_model_continues_after_ctrl_c_as_the_page_shows(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    page, fit = DOCS / "first_model.md", Learner.fit
    monkeypatch.setattr(Learner, "fit", lambda learn, n, **given: fit(learn, n, [CtrlC], **given))
    with outputs.files_of(page):
        script = Path("train.py").read_text()
        script = script[: re.search(r"^learn\.fit\(.*\n", script, re.MULTILINE).end()]
        with pytest.raises(KeyboardInterrupt):
            exec(script, {})
        interrupted = capsys.readouterr()
        exec(script, {})
    shown = [fence.text for fence in outputs.fences_of(page.read_text()) if fence.words == ["text"]]
    notice = interrupted.err.strip()  # a terminal shows it between the lines of the table
    assert notice in shown[0]
    assert agree(shown[0].replace(f"{notice}\n", ""), interrupted.out)
    continued = capsys.readouterr().out
    assert agree(shown[1], continued), continued


def agree(shown: str, printed: str) -> bool:
    """Are they the same, apart from the times of the epochs?"""
    return outputs.matches(outputs.EPOCH_TIME.sub("", shown), outputs.EPOCH_TIME.sub("", printed))
