"""The benchmarks that compare frameworks run, and compare the same work. Their times are not tested."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from processes import run

HOME = Path(__file__).parents[1]
FOLDER = HOME / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table() -> str:
    """The output of one tiny round, for us and for a framework that may be missing."""
    done = run(str(FOLDER / "peers.py"), "1", "--scale", "0.02", "--only", "ours", "fastai")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_has_a_row_for_each_workload_and_lists_what_is_not_installed(table):
    rows = [line for line in table.splitlines() if line.startswith("| ") and "| 1 (" in line]
    assert len(rows) == 5
    missing = importlib.util.find_spec("fastai") is None
    assert ("fastai is not installed: ModuleNotFoundError" in table) == missing


def test_our_loop_ends_with_the_weights_of_the_plain_loop(table):
    ours = [line.split("|")[3] for line in table.splitlines() if "| 1 (" in line]
    assert [cell for cell in ours if "*" in cell or "~" in cell or "fails" in cell] == []


def test_another_model_than_the_plain_loops_is_marked():
    mark = load("peers").mark
    plain = {"loss": 2.0, "weights": [1.0]}
    assert mark({"loss": 2.0, "weights": [1.0]}, plain) == ""
    assert mark({"loss": 2.00001, "weights": [1.0001]}, plain) == "~"
    assert mark({"loss": 2.0001, "weights": [1.0]}, plain) == "*"
    assert mark({"loss": float("nan"), "weights": [1.0]}, plain) == "*"


def test_a_process_is_timed_and_its_output_is_read(tmp_path):
    *times, output = load("startup").seconds(
        [sys.executable, "-c", "print(sum(range(10**6)))"], str(tmp_path)
    )
    assert min(times) > 0
    assert output == "499999500000\n"


def test_the_plain_script_prints_and_draws_what_the_articles_recipe_does(capsys, monkeypatch):
    startup = load("startup")
    forked = lambda program, folder: (0.0, 0.0, run(*program[1:], cwd=Path(folder)).stdout)  # noqa: E731
    monkeypatch.setattr(startup, "seconds", forked)  # which starts quickly
    startup.check_article()
    assert capsys.readouterr().out == "same numbers: True; same picture: True\n"


# The benchmark on a GPU: no part fails, as far as a CPU shows


def test_every_part_of_the_gpu_benchmark_runs_with_tiny_sizes(tmp_path):
    path = tmp_path / "gpu.json"
    done = run(str(FOLDER / "gpu.py"), "--tiny", "--json", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))
    ends = {row["part"]: row["status"].rpartition(",")[0] for row in rows if "status" in row}
    assert list(ends) == list(load("gpu").PARTS)
    assert set(ends.values()) <= {"done", "skipped: needs CUDA"}
    assert [row["value"] for row in rows if row.get("what", "").startswith("the same, killed")] == [
        "the same bits"
    ]
    assert done.stdout.count("\n") == len(rows) + 2


class Nothing:
    """Stands for the streams and graphs of CUDA: every method does nothing."""

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *arguments):
        return None

    def __getattr__(self, name):
        return lambda *arguments, **options: None


def test_what_needs_cuda_runs_with_an_imitation_of_it(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from on_gpu import fits, parts, steps, works

    for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", Nothing)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an imitation")
    monkeypatch.setattr(works.Setting, "need_cuda", lambda setting: None)
    setting = works.Setting(True, torch.device("cpu"))
    assert steps.by_graph(setting, next(works.works(setting)))() > 0
    assert {row["value"] for row in fits.memory(setting)} == {"3.0 MiB"}
    output = "FAILED tests/a/test_b.py::test_c[d e] - RuntimeError: e\n1 failed, 2 passed in 3s\n"
    assert [row["value"] for row in parts.rows_of(output)] == [
        "1 failed, 2 passed in 3s",
        "failed: RuntimeError: e",
    ]


CHILD = """
import json, sys, time
for each in sys.argv[2:]:
    name = each.partition(":")[0]
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"part": name, "what": "a row", "value": 1}) + "\\n")
    if name == "steps":
        time.sleep(99)
    if name == "memory":
        sys.exit("no memory")
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"part": name, "status": "done"}) + "\\n")
"""


def test_a_part_that_dies_or_takes_too_long_is_reported_and_the_next_one_starts(tmp_path, capsys):
    gpu, script = load("gpu"), tmp_path / "child.py"
    script.write_text(CHILD)
    names = ["machine", "steps", "memory", "resume"]
    path = tmp_path / "gpu.json"
    parts = gpu.Run(names, 2.0, is_tiny=False, path=path, child=[sys.executable, str(script)])
    rows = parts.run()
    assert [row["part"] for row in rows if "what" in row] == names
    ends = {row["part"]: row["status"] for row in rows if "status" in row}
    assert ends["machine"] == ends["resume"] == "done"
    assert ends["steps"].startswith("stopped after")
    assert ends["memory"] == "the process died with exit code 1"
    assert [row["log"].strip() for row in rows if row.get("log")] == ["no memory"]
    assert json.loads(path.read_text()) == rows
    assert "| steps | a row | 1 |" in capsys.readouterr().out
