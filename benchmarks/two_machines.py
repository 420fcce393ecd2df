"""Train on two machines that are two network namespaces of this one, and interrupt the link between them.

Run as root on Linux: python benchmarks/two_machines.py

Each namespace has its own network stack and one end of a virtual link, its only connection to the other.
`torchrun` starts two processes in each; they meet over the link. The program trains three times: undisturbed;
with the link down for some seconds, which TCP bridges; and with the link down for longer than the timeout of
the process group, after which `torchrun` starts all processes again, and they resume from the last
checkpoint. It prints whether all runs end with the bits of the undisturbed one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

NAMES, ADDRESSES = ("machine-a", "machine-b"), ("10.77.0.1", "10.77.0.2")
SCRIPT = """
import hashlib, os, sys, time
from functools import partial
import torch
from torch import nn
from callbacks import Checkpoint, Distributed, on
from learner import Data, Learner

torch.manual_seed(0)
inputs = torch.randn(512, 16)
data = Data.from_tensors(inputs, inputs.sum(1, keepdim=True), 64, valid=None, seed=0)
model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 1))

@on("after_batch")
def takes_time(learn):
    time.sleep(0.05)
    if learn.ranks.is_first:
        print(f"step {learn.global_step}", flush=True)

saved = Checkpoint(sys.argv[1], every="2 steps")
rate = partial(torch.optim.SGD, lr=0.01)
learn = Learner(model, data, nn.functional.mse_loss, rate, [Distributed(timeout=6), saved, takes_time])
learn.fit(8, resume="auto")
bits = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in model.parameters())).hexdigest()
os.write(1, f"rank {os.environ['RANK']} ends with {bits[:12]}\\n".encode())
"""


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def connect() -> None:
    """Make both namespaces and the link."""
    disconnect()
    for name in NAMES:
        run("ip", "netns", "add", name)
    run("ip", "link", "add", "veth-a", "netns", NAMES[0], "type", "veth", "peer", "veth-b", "netns", NAMES[1])
    for name, address, link in zip(NAMES, ADDRESSES, ("veth-a", "veth-b"), strict=True):
        inside = ("ip", "-n", name)
        run(*inside, "address", "add", f"{address}/24", "dev", link)
        run(*inside, "link", "set", link, "up")
        run(*inside, "link", "set", "lo", "up")


def disconnect() -> None:
    """Remove both namespaces, and with them the link."""
    for name in NAMES:
        subprocess.run(("ip", "netns", "delete", name), check=False, stderr=subprocess.DEVNULL)


def train(folder: Path, *, down: float | None) -> tuple[set[str], int, float]:
    """Train once; the link is down for `down` seconds from step 10 on.

    Returns:
        The bits of the ranks, the number of steps that were trained, and the seconds.
    """
    (folder / "train.py").write_text(SCRIPT)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
    }
    begun, processes = time.monotonic(), []
    for node, (name, link) in enumerate(zip(NAMES, ("veth-a", "veth-b"), strict=True)):
        torchrun = (
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"),
            *("--max-restarts=3", f"--node-rank={node}", "--rdzv-backend=c10d", "--rdzv-id=1"),
            f"--rdzv-conf=is_host={int(node == 0)},join_timeout=120",
            *(f"--rdzv-endpoint={ADDRESSES[0]}:29400", f"--local-addr={ADDRESSES[node]}"),
        )
        command = ("ip", "netns", "exec", name, *torchrun, "train.py", str(folder / "run"))
        more = {"GLOO_SOCKET_IFNAME": link, "TP_SOCKET_IFNAME": link}
        processes.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=environment | more,
                stdout=subprocess.PIPE,
                stderr=(folder / f"errors-{node}").open("w"),
                text=True,
            )
        )
    lines: list[str] = []
    readers = [threading.Thread(target=read, args=(each, lines)) for each in processes]
    for each in readers:
        each.start()
    if down is not None:
        while not any(line == "step 10" for line in lines) and processes[0].poll() is None:
            time.sleep(0.01)
        run("ip", "-n", NAMES[1], "link", "set", "veth-b", "down")
        time.sleep(down)
        run("ip", "-n", NAMES[1], "link", "set", "veth-b", "up")
    codes = [each.wait() for each in processes]
    for each in readers:
        each.join()
    if any(codes):
        errors = "\n".join((folder / f"errors-{node}").read_text()[-4000:] for node in (0, 1))
        raise RuntimeError(f"exit codes {codes}: {errors}")
    bits = {found.group(1) for line in lines if (found := re.match(r"rank \d ends with (\w+)", line))}
    return bits, sum(line.startswith("step") for line in lines), time.monotonic() - begun


def read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())


def main() -> None:
    connect()
    try:
        expected: set[str] = set()
        for title, down in (("undisturbed", None), ("link down for 2 s", 2.0), ("link down for 15 s", 15.0)):
            with tempfile.TemporaryDirectory() as folder:
                bits, n_steps, seconds = train(Path(folder), down=down)
            expected = expected or bits
            same = (
                "the same bits on 4 ranks" if bits == expected and len(bits) == 1 else f"other bits: {bits}"
            )
            print(f"{title:<20} {same}, {n_steps} steps trained for 64, {seconds:.0f} s", flush=True)
    finally:
        disconnect()


if __name__ == "__main__":
    main()
