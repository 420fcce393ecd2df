"""Regularisation by noise on the weights, and by dropping branches of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.draws import OwnDraws, PythonState
from callbacks.core.registry import describe
from callbacks.core.settings import check_number
from callbacks.core.when import window_of
from callbacks.model.held import Held


class WeightNoise(Callback):
    """Add Gaussian noise to the weights while a training batch goes forward and backward.

    Each trained weight gets its own noise, drawn again for each batch; before the update the weights are
    restored bit for bit. So the gradients are computed at the noisy weights. Validation has no noise; a
    prediction in the middle of a batch removes the noise for the rest of that batch. While the weights are
    noisy, a copy of them is kept.

    Args:
        std: the noise's standard deviation, above 0, in the unit of the weights.
        seed: seed of its own random numbers, which continue from fit to fit; None draws one from torch's
            random state.

    Raises:
        ValueError: a setting is invalid; or, when the fit starts, another `WeightNoise` adds noise too.

    Source: Graves 2011, Practical Variational Inference for Neural Networks, NeurIPS 24; as used by Graves
        et al. 2013, arXiv:1303.5778, section 3.
    """

    order = Order.TRANSFORM
    state = ("draws", "clean")
    draws = Held[PythonState | None]("_draws", "state", "The state of its random numbers.")

    def __init__(self, std: float = 0.01, *, seed: int | None = None, name: str | None = None):
        super().__init__(name=name)
        self.std = check_number("WeightNoise", "std", std, lambda x: x > 0, "a number above 0, such as 0.01")
        self._draws = OwnDraws("WeightNoise", seed)
        self._kept: list[tuple[nn.Parameter, Tensor]] = []  # noisy weights, each with its clean copy
        # during a validation in the middle of a batch: weights, with noise and without
        self._noisy: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._weights: list[nn.Parameter] = []  # the last ones that had noise
        self._clean: list[Tensor] | None = None  # from a snapshot of noisy weights

    @property
    def clean(self) -> list[Tensor] | None:
        """The weights without noise, while the model's are noisy in the middle of a batch; otherwise None."""
        return [value for _, value in self._kept] or None

    @clean.setter
    def clean(self, clean: list[Tensor] | None) -> None:
        self._kept = [] if clean is None else self._kept  # the snapshot's weights are restored after this
        self._clean = clean

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        _ = self._draws.source

    def before_batch(self, learn: LearnerProtocol) -> None:
        if self._clean is not None:
            self._weights = self._weights or trained_of(learn)
        self.take_off()  # of a cancelled batch
        if not learn.training:
            return
        weights = trained_of(learn)
        self._kept = [(weight, weight.detach().clone()) for weight in weights]
        self._weights = weights
        self._put_on(weights)

    def after_backward(self, learn: LearnerProtocol) -> None:
        self.take_off()

    after_train = after_epoch = after_fit = after_backward  # a cancel may have ended the batch

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._noisy = [(weight, weight.detach().clone(), value) for weight, value in self._kept]
        self.take_off()

    @torch.no_grad()
    def after_validate(self, learn: LearnerProtocol) -> None:
        if self._noisy:  # in the middle of a batch, which continues with its noise
            self._kept = [(weight, value) for weight, _, value in self._noisy]
            for weight, noisy, _ in self._noisy:
                weight.copy_(noisy)
        self._noisy = []

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.take_off()
        self._weights, self._noisy = [], []

    @torch.no_grad()
    def take_off(self) -> None:
        """Restore the weights without noise; does nothing if they have none."""
        if self._clean is not None and len(self._clean) == len(self._weights):
            self._kept = list(zip(self._weights, self._clean, strict=True))
        self._clean = None
        if self._kept:
            weights, values = zip(*self._kept, strict=True)
            torch._foreach_copy_(weights, values)  # type: ignore[reportPrivateImportUsage]
            self._kept = []

    @torch.no_grad()
    def _put_on(self, weights: list[nn.Parameter]) -> None:
        """Draw noise on each weight's device, and add it."""
        generators: dict[torch.device, torch.Generator | None] = {}
        seed = self._draws.source.getrandbits(63)  # one per batch, so no state of a device must be kept
        for weight in weights:
            if weight.device not in generators:
                generators[weight.device] = generator_on(weight.device, seed)
            noise = torch.empty_like(weight).normal_(0, self.std, generator=generators[weight.device])
            weight.add_(noise)


def trained_of(learn: LearnerProtocol) -> list[nn.Parameter]:
    """The weights that get noise."""
    return [each for each in learn.model.parameters() if each.requires_grad and not is_lazy(each)]


def check_alone(callback: WeightNoise, learn: LearnerProtocol) -> None:
    """Refuse two at a time: the second would restore the noisy weights of the first."""
    found = [each for each in learn.callbacks if isinstance(each, WeightNoise)]
    if len(found) > 1 and not all(map(window_of, found)):
        other = next(each for each in found if each is not callback)
        raise ValueError(
            f"{describe(callback)} and {describe(other)} both add noise to the weights: leave one out (their "
            "variances add up), or let them take turns, as in When(WeightNoise(0.1), until='5 epochs') and "
            "When(WeightNoise(0.01), start='5 epochs')."
        )


def generator_on(device: torch.device, seed: int) -> torch.Generator | None:
    """A generator of that device; None for "meta", which has none."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


class StochasticDepth(nn.Module):
    """Drop a whole branch at random for some items of a batch: a layer for models with shortcuts.

        x = x + self.drop(self.branch(x))

    In training each item's row is set to 0 with probability `p`, and the others are divided by `1 - p`, so
    the mean stays the same; in evaluation the input is returned. It draws from torch's random state, as
    `nn.Dropout` does.

    Args:
        p: probability that an item's branch is dropped, in [0, 1].

    Raises:
        ValueError: `p` is not a number in [0, 1].

    Source: Huang et al. 2016, arXiv:1603.09382, equation 5, but scaled in training instead of testing, and
        drawn for each item of a batch.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = check_number("StochasticDepth", "p", p, lambda x: 0 <= x <= 1, "a probability from 0 to 1")

    @staticmethod
    def rates(n: int, last: float = 0.5) -> list[float]:
        """The probabilities of `n` successive branches, from `last / n` in the first up to `last`.

        Source: Huang et al. 2016, equation 4.
        """
        return [last * (index + 1) / n for index in range(n)]

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows of `x`, shape (items, ...); returns the same shape and dtype."""
        if not self.training or self.p == 0:
            return x
        shape = (len(x), *(1 for _ in x.shape[1:]))
        kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept if self.p == 1 else x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        """The arguments in `repr`."""
        return f"p={self.p}"
