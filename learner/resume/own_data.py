"""What differs between the processes in a checkpoint, if each of them reads data of its own."""

from __future__ import annotations

import json
from typing import Any

from callbacks.core.ranks import Ranks
from learner.state.protocol import FullLearner

KEY = "of_ranks"  # in the contents of a checkpoint
OF_CONTENTS = ("loaders", "generators", "random")
OF_FIT = ("passes", "mark", "now", "values")
OF_FINGERPRINT = ("data", "loaders")


def with_all_ranks(learn: FullLearner, contents: dict[str, Any]) -> dict[str, Any]:
    """The contents of a file, with what differs in each process; every process must call this."""
    ranks = learn.ranks
    if ranks.size == 1 or not (ranks.sharded or learn.loop.known.has_own_data):
        return contents
    fit, fingerprint = contents["fit"], json.loads(contents["fingerprint"])
    own = {
        **{name: contents[name] for name in OF_CONTENTS},
        "fit": {name: fit[name] for name in OF_FIT},
        "fingerprint": {name: fingerprint[name] for name in OF_FINGERPRINT},
        "is_over": ranks.is_over,
    }
    return {**contents, KEY: ranks.gather(own)}


def of_rank(contents: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The contents of a file as this process has saved them; of another number of processes, unchanged."""
    found = contents.get(KEY)
    if found is None or len(found) != ranks.size:
        return contents
    own = found[ranks.rank]
    fit = {**contents["fit"], **own["fit"]}
    if fit["now"] is not None:
        fit["now"] = {**fit["now"], "rank": ranks.rank, "is_over": own["is_over"]}
    return {
        **contents,
        **{name: own[name] for name in OF_CONTENTS},
        "fit": fit,
        "fingerprint": {**contents["fingerprint"], **own["fingerprint"]},
    }
