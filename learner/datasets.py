"""The small data sets under the path that users import; the code is in `data/datasets.py`."""

from learner.data.datasets import article, diabetes, digits

__all__ = [
    "article",
    "diabetes",
    "digits",
]
