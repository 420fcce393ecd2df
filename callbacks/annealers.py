"""The annealers under the path that users import; the code is in `schedule/annealers.py`."""

from callbacks.schedule.annealers import (
    Annealer,
    combine,
    constant,
    cos,
    exp,
    flat_cos,
    lin,
    one_cycle,
    poly,
    sgdr,
    warmup_cosine,
    wsd,
)

__all__ = [
    "Annealer",
    "combine",
    "constant",
    "cos",
    "exp",
    "flat_cos",
    "lin",
    "one_cycle",
    "poly",
    "sgdr",
    "warmup_cosine",
    "wsd",
]
