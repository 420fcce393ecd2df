"""The time per training step in this library and in others, compared with a plain loop.

Run: python benchmarks/peers.py [rounds] [--growth] [--only ours fastai] [--minutes 30] [--raw file.json]

Each framework that is installed runs in its own process, on one thread (the files in `benchmarks/beside`
show how each is set up). A round goes through all works and all processes. A process times, in turn, the
plain loop, a variant, the plain loop, the next variant, the plain loop. A ratio is a variant's time
divided by the mean of the two plain loops around it, in the same process; the table shows medians over
rounds. The first round is not counted, and after `--minutes` no new round starts. `defaults / off` means
the framework's defaults / everything optional switched off. The final model is compared with the plain
loop's: `~` after a ratio means that the final loss is the same but the sums of the weights have other
bits, `*` that the loss differs by more than a relative 1e-5.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "beside"
PEERS = ("ours", *sorted(path.stem.removeprefix("with_") for path in FOLDER.glob("with_*.py")))
PLAIN = "plain loop"
#: Work to peer to variant to the answers of the rounds; PLAIN has two or more per round.
Answers = dict[str, dict[str, dict[str, list[dict[str, Any]]]]]


class Worker:
    """A process that trains with one framework.

    Attributes:
        hello: its first answer: `version` and `variants`, or why it is `missing`.
    """

    def __init__(self, name: str):
        module = name if name == "ours" else f"with_{name}"
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / "worker.py"), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.name, self.hello = name, self.read()

    def ask(self, *request: Any) -> dict[str, Any]:
        assert self.process.stdin
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended", "error": "its process ended"}

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(
    workers: list[Worker], table: str, works: list[str], known: argparse.Namespace
) -> tuple[Answers, int]:
    """The answers, and how many rounds there were."""
    answers: Answers = {work: {worker.name: {} for worker in workers} for work in works}
    number, last = 0, time.monotonic() + known.minutes * 60
    while number <= known.rounds and (number < 2 or time.monotonic() < last):
        for work, worker in itertools.product(works, workers):
            found = one_round(worker, table, work, known)
            for variant, these in found.items() if number else ():  # the first round warms up
                answers[work][worker.name].setdefault(variant, []).extend(these)
        print(f"round {number} of {known.rounds}", file=sys.stderr)
        number += 1
    return answers, number - 1


def one_round(
    worker: Worker, table: str, work: str, known: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """The plain loop before, between and after the variants."""
    found = {PLAIN: [worker.ask(table, work, PLAIN, known.scale)]}
    for variant in known.variants or worker.hello["variants"]:
        answer = worker.ask(table, work, variant, known.scale)
        found[PLAIN].append(worker.ask(table, work, PLAIN, known.scale))
        if "error" not in answer:
            answer["ratio"] = answer["seconds"] / statistics.mean(
                each["seconds"] for each in found[PLAIN][-2:]
            )
        found[variant] = [answer]
    return found


def cell(variants: dict[str, list[dict[str, Any]]], variant: str) -> str:
    """The median of the ratios, and a mark if the final model differs."""
    answers = variants.get(variant, [])
    errors = [each["error"] for each in answers if "error" in each]
    if errors or not answers:
        return "fails" if any(errors) else "-"
    ratio = statistics.median(each["ratio"] for each in answers)
    return (f"{ratio:.1f}" if ratio >= 9.95 else f"{ratio:.2f}") + mark(answers[0], variants[PLAIN][0])


def mark(answer: dict[str, Any], plain: dict[str, Any]) -> str:
    if not math.isclose(answer["loss"], plain["loss"], rel_tol=1e-5):
        return "*"
    return "" if answer["weights"] == plain["weights"] else "~"


def shown_seconds(answers: list[dict[str, Any]]) -> str:
    micro = statistics.median(each["seconds"] for each in answers) * 1e6
    return f"{micro:.0f} us" if micro < 1000 else f"{micro / 1000:.2f} ms"


def report(answers: Answers, workers: list[Worker], known: argparse.Namespace) -> None:
    names = [worker.name for worker in workers]
    print(f"\n| work | plain loop | {' | '.join(names)} |")
    print("|---" * (len(names) + 2) + "|")
    for work, peers in answers.items():
        plain = shown_seconds([each for name in names for each in peers[name][PLAIN]])
        cells = (f"{cell(peers[name], 'defaults')} / {cell(peers[name], 'off')}" for name in names)
        print(f"| {work} | 1 ({plain}) | {' | '.join(cells)} |")
    for worker in workers:
        more = [each for each in worker.hello["variants"] if each not in ("defaults", "off")]
        if more and not known.variants:
            report_more(answers, worker.name, more)
    for peers in answers.values():
        for name, variants in peers.items():
            for error in {
                each["error"] for group in variants.values() for each in group if each.get("error")
            }:
                print(f"\n{name} failed:\n{error}", file=sys.stderr)


def report_more(answers: Answers, name: str, variants: list[str]) -> None:
    print(f"\n| {name} | {' | '.join(variants)} |")
    print("|---" * (len(variants) + 1) + "|")
    for work, peers in answers.items():
        print(f"| {work} | {' | '.join(cell(peers[name], variant) for variant in variants)} |")


def report_memory(answers: Answers, workers: list[Worker]) -> None:
    print("\n| | version | MB, imported | MB, peak |\n|---|---|---|---|")
    for worker in workers:
        held = [peers[worker.name] for peers in answers.values()]
        most = max(
            each.get("megabytes", 0) for variants in held for group in variants.values() for each in group
        )
        version, imported = worker.hello["version"], worker.hello["megabytes"]
        print(f"| {worker.name} | {version} | {imported:.0f} | {most:.0f} |")


def processor() -> str:
    """The name of the processor, if the system provides it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rounds", nargs="?", type=int, default=9)
    parser.add_argument("--growth", action="store_true", help="works in which one quantity grows")
    parser.add_argument(
        "--only", nargs="+", choices=PEERS, default=PEERS, metavar="PEER", help=", ".join(PEERS)
    )
    parser.add_argument("--variants", nargs="+", help="by default all")
    parser.add_argument("--works", nargs="+", type=int, default=None, help="numbers of rows, from 1")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no new round after this time")
    parser.add_argument("--raw", type=Path, help="a file for all measurements")
    known = parser.parse_args()
    sys.path.insert(0, str(FOLDER))
    from works import TABLES  # pyright: ignore[reportMissingImports]  # of that folder

    table = "growth" if known.growth else "table"
    works = list(TABLES[table](known.scale))
    works = [works[number - 1] for number in known.works or range(1, len(works) + 1)]
    started = [Worker(name) for name in known.only]
    workers = [worker for worker in started if "missing" not in worker.hello]
    try:
        answers, n_rounds = measure(workers, table, works, known)
    finally:
        for worker in started:
            worker.close()
    print(f"Python {platform.python_version()}, torch {torch.__version__}, 1 thread, {n_rounds} rounds,")
    print(f"{processor()}, {os.cpu_count()} cores")
    report(answers, workers, known)
    report_memory(answers, workers)
    for worker in started:
        if "missing" in worker.hello:
            print(f"\n{worker.name} is not installed: {worker.hello['missing']}")
    if known.raw:
        known.raw.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
