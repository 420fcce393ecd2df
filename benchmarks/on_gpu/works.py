"""The works that are trained on the GPU, the loops that train them, and how a step is timed."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from beside.works import Quadratic, article_items, conv_net, mlp, pictures
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import Callback, LearnerWarning, MixedPrecision, Order
from learner import Data, Learner

Row = dict[str, Any]
Run = Callable[[], float]  #: trains one epoch, and returns its seconds


class SkippedError(Exception):
    """A part, or a row, that cannot run here; the message says why."""


@dataclass
class Setting:
    """Where the parts run.

    Attributes:
        is_tiny: use tiny sizes?
        device: where.
        seconds: the time for the current part.
        begun: when it has begun.
        notes: warnings of the learners of the current row, as of a compiler that was not used.
    """

    is_tiny: bool
    device: torch.device
    seconds: float = 60.0
    begun: float = 0.0
    notes: list[str] = field(default_factory=list)

    def size(self, full: int, tiny: int) -> int:
        """A size."""
        return tiny if self.is_tiny else full

    def left(self) -> float:
        """Seconds that are left for the part."""
        return self.seconds - (time.perf_counter() - self.begun)

    def need_cuda(self) -> None:
        """Skip a part that runs on CUDA only."""
        if self.device.type != "cuda":
            raise SkippedError("skipped: needs CUDA")

    def now(self) -> float:
        """The time after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass
class Work:
    """A model and batches for one epoch, on the device."""

    title: str
    make_model: Callable[[], nn.Module]
    batches: list[Any]
    loss_func: Callable[..., Any]
    optimizer: Callable[..., Any]
    is_mixed: bool = False

    def model(self, device: torch.device) -> nn.Module:
        """A new model with the same weights each time."""
        torch.manual_seed(0)
        return self.make_model().to(device)

    def cast(self, device: torch.device, **options: Any) -> Any:
        """The context for forward and loss."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.is_mixed, **options)


class Transformer(nn.Module):
    """An encoder over sequences of words, with a class for each sequence."""

    def __init__(self, size: int, n_layers: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(size, max(1, size // 64), 4 * size, dropout=0.1, batch_first=True)
        self.words = nn.Embedding(1000, size)
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.head = nn.Linear(size, 10)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layers(self.words(words)).mean(1))


def works(setting: Setting) -> Iterator[Work]:
    """The MLP, the transformer, the convolutions and the article's fit."""
    there, steps = setting.device, setting.size(100, 3)
    sgd, adamw = partial(torch.optim.SGD, lr=0.01), partial(torch.optim.AdamW, lr=1e-4)
    inputs, targets = (each.to(there) for each in pictures(setting.size(64 * 100, 12)))
    pairs = list(zip(inputs.chunk(steps), targets.chunk(steps), strict=True))
    yield Work("MLP 784-128-10, batch 64", mlp, pairs, F.cross_entropy, sgd)
    n, length, steps = setting.size(32, 2), setting.size(256, 4), setting.size(10, 3)
    draws = torch.Generator().manual_seed(0)
    words = torch.randint(1000, (steps, n, length), generator=draws).to(there)
    classes = torch.randint(10, (steps, n), generator=draws).to(there)
    model = partial(Transformer, setting.size(512, 8), setting.size(6, 1))
    sequences = list(zip(words, classes, strict=True))
    for is_mixed in (True, False):
        title = f"transformer, {words.shape[1]} x {length}{', bf16' if is_mixed else ''}"
        yield Work(title, model, sequences, F.cross_entropy, adamw, is_mixed)
    yield Work("small conv net, batch 64", conv_net, pairs, F.cross_entropy, sgd)
    item = tuple(each.to(there) for each in article_items())
    rate = partial(torch.optim.SGD, lr=1e-5)
    yield Work("the article's fit", Quadratic, [item] * setting.size(100, 3), F.mse_loss, rate)


class Watch(Callback):
    """Times the second epoch of a fit, with what callbacks do at its end."""

    order = Order.SAVE

    def __init__(self, now: Callable[[], float]):
        super().__init__()
        self.now, self.begun, self.seconds = now, 0.0, 0.0

    def before_epoch(self, learn: Any) -> None:
        self.begun = self.now()

    def after_epoch(self, learn: Any) -> None:
        self.seconds = self.now() - self.begun


def learner(setting: Setting, work: Work, *callbacks: Any, data: Any = None, **options: Any) -> Learner:
    """A learner for a work; its output is not shown."""
    mixed = [MixedPrecision("bf16")] if work.is_mixed else []
    data = Data(work.batches) if data is None else data
    model = work.model(setting.device)
    return Learner(model, data, work.loss_func, work.optimizer, [*mixed, *callbacks], **options)


def ours(setting: Setting, work: Work, *callbacks: Any, data: Any = None, **options: Any) -> Run:
    """Epochs of a learner; the last of each fit is timed."""
    learn = learner(setting, work, Watch(setting.now), *callbacks, data=data, **options)

    def run() -> float:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("ignore")  # the compiler's own
            warnings.simplefilter("always", LearnerWarning)
            learn.fit(2)
        setting.notes += [str(each.message)[:200] for each in found]
        return learn.callbacks[Watch].seconds

    return run


def plain(setting: Setting, work: Work, *, batches: Any = None, **compiling: Any) -> Run:
    """Epochs of a plain loop: forward, loss, backward, step and zero_grad."""
    model = work.model(setting.device)
    optimizer = work.optimizer(model.parameters())
    called: Any = torch.compile(model, **compiling) if compiling else model
    batches = work.batches if batches is None else batches

    def run() -> float:
        begun = setting.now()
        for inputs, targets in batches:
            if compiling.get("mode"):
                torch.compiler.cudagraph_mark_step_begin()
            with work.cast(setting.device):
                loss = work.loss_func(called(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return setting.now() - begun

    return run


def compared(setting: Setting, base: Run, other: Run, seconds: float, n_steps: int) -> str:
    """The time of a step compared with another step, in turns: the median of the ratios, and the quartiles.

    Args:
        setting: where it runs.
        base: what it is compared with.
        other: what is measured.
        seconds: how long to measure; at least three pairs, at most 25.
        n_steps: the steps of an epoch of `other`.
    """
    begun = setting.now()
    other()
    first = setting.now() - begun  # with compiling
    base()
    pairs: list[tuple[float, float]] = []
    begun = time.perf_counter()
    while len(pairs) < (3 if time.perf_counter() - begun > seconds else setting.size(25, 3)):
        pairs.append((base(), other()))
    ratios = sorted(b / a for a, b in pairs)
    low, middle, high = statistics.quantiles(ratios)
    spent = statistics.median(b for _, b in pairs) / n_steps
    text = f"{middle:.3f} ({low:.3f} to {high:.3f}), {1e6 * spent:.1f} us per step, {len(pairs)} pairs"
    return f"{text}, first epoch {first:.1f} s" if first > 2 else text


def measured(what: str, make: Callable[[], str], setting: Setting) -> Row:
    """A row; an error in it is its result, unless it comes from the device, which is then unusable."""
    setting.notes = []
    try:
        value = make()
    except SkippedError as reason:
        value = str(reason)
    except ImportError as error:
        value = f"skipped: {error.name} is not installed"
    except Exception as error:  # noqa: BLE001 - it is reported, and the next row is measured
        if setting.device.type == "cuda":
            torch.cuda.synchronize()  # raises again if the device is lost
        value = f"failed: {type(error).__name__}: {str(error).strip()[:300]}"
    notes = " ".join(dict.fromkeys(setting.notes))
    return {"what": what, "value": value, **({"note": notes} if notes else {})}
