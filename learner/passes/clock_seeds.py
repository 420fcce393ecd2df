"""Find stages of a stream that seed themselves from the clock, so that no order can be repeated."""

from __future__ import annotations

from typing import Any

from learner.data.generators import walk

SHUFFLE = (
    "The shuffle of webdataset seeds itself from the clock, so the rest of an interrupted pass has another "
    "order: some items come twice, others are left out. Pass a generator, "
    ".shuffle(1000, rng=random.Random(0))."
)
RESAMPLED = (
    "The resampling of webdataset seeds itself from the clock, so an interrupted pass continues with other "
    "shards. Start the pipeline with ResampledShards(urls, deterministic=True)."
)


def seeded_by_the_clock(loader: Any) -> str | None:
    """What differs because of webdataset's seeds, and how to fix it; None without such a stage."""
    for _, part in walk(loader):
        if not is_of_webdataset(part):
            continue
        function = getattr(part, "f", None)
        name = getattr(function or part, "__name__", type(part).__name__)
        if name == "_shuffle" and len(part.args) < 3 and not {"rng", "seed"} & {*settings_of(part)}:
            return SHUFFLE
        if name == "resampled_" or (
            name.startswith("Resampled") and not getattr(part, "deterministic", True)
        ):
            return RESAMPLED
    return None


def is_of_webdataset(part: Any) -> bool:
    """Is this a stage of webdataset, or does it hold a function of webdataset?"""
    return type(part).__module__.startswith("webdataset.")


def settings_of(part: Any) -> list[str]:
    """The names of the arguments of a stage that are not None."""
    return [name for name, value in part.kw.items() if value is not None]
