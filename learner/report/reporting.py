"""`learn.report(path)` and the file that `learner report` writes."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from callbacks.core.warning import renamed_arguments
from callbacks.history.paths import as_path, replacing
from learner.messages.keywords import suggest_keywords
from learner.report.predictions_section import predictions_section
from learner.report.records import Record, record_of_learner
from learner.report.run_page import run_page
from learner.state.protocol import FullLearner


class RunReport:
    """A report as one HTML page; a notebook shows it.

    Attributes:
        html: the page.
        path: the file that it was written to, or None.
    """

    def __init__(self, html: str, path: Path | None = None):
        self.html, self.path = html, path

    def save(self, path: str | Path) -> RunReport:
        """Write the page to a file; folders that are missing are created."""
        path = page_path("save", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(self.html, encoding="utf-8")
        self.path = path
        return self

    def __repr__(self) -> str:
        return f"RunReport({len(self.html) / 1000:.0f} kB{f', {self.path}' if self.path else ''})"

    def _repr_html_(self) -> str:
        style = "width:100%;height:640px;border:1px solid #8884;border-radius:8px"
        return f'<iframe title="report" style="{style}" srcdoc="{escape(self.html)}"></iframe>'


@renamed_arguments(answers="predictions")
@suggest_keywords
def report(learn: FullLearner, path: str | Path | None = None, *, predictions: bool = True) -> RunReport:
    """Report what was trained, with its result, curves, settings and environment, as one HTML page.

    The page needs no network, because it contains its plots and style. The learner is not changed.

    Args:
        learn: the learner.
        path: the file to write, such as `"report.html"`; None writes nothing, and a notebook shows the page.
        predictions: run the model on the validation data, for a confusion matrix or residuals.
    """
    path = None if path is None else page_path("report", path)
    return made(record_of_learner(learn), learn if predictions else None, path)


def page_path(owner: str, path: Any) -> Path:
    """The file for a page, checked before a page is made."""
    found = as_path(owner, "path", path, "the name of a file, such as 'report.html'")
    if found.is_dir():
        raise IsADirectoryError(f"{owner}(path={str(path)!r}): this is a folder; pass a file in it.")
    return found


def made(record: Record, learn: FullLearner | None, path: str | Path | None = None) -> RunReport:
    """The report of a record, written to a file if there is one; `learn` has the weights of the run."""
    predictions = "" if learn is None or not record.rows else predictions_section(learn, record.missing)
    found = RunReport(run_page(record, predictions))
    return found if path is None else found.save(path)
