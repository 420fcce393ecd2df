"""Regularise by noise: on the weights, and on the depth of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol, Order
from callbacks.core.draws import OwnDraws, PythonState
from callbacks.core.registry import describe
from callbacks.core.settings import is_number
from callbacks.core.when import When, unwrapped


class WeightNoise(Callback):
    """Add Gaussian noise to the weights while a training batch goes forward and backward.

    Each weight that is trained gets noise of its own, drawn anew for each batch; before the update the
    weights are as they were, to the bit. Gradients are thus those at the noisy weights. Validation has no
    noise; a prediction in the middle of a batch takes it off for the rest of it. A copy of the weights is
    kept while they are noisy.

    Args:
        std: the noise's standard deviation, above 0, in the unit of the weights.
        seed: of its own random numbers; None to draw one from torch's random state. They go on from fit to
            fit.

    Raises:
        ValueError: a setting cannot be used; or, at the fit's begin, another one adds noise too.

    Source: Graves 2011, Practical Variational Inference for Neural Networks, NeurIPS 24; as used by Graves
        et al. 2013, arXiv:1303.5778, section 3.
    """

    order = Order.TRANSFORM
    state = ("draws", "clean")

    def __init__(self, std: float = 0.01, *, seed: int | None = None, name: str | None = None):
        super().__init__(name=name)
        if not is_number(std) or std <= 0:
            raise ValueError(f"WeightNoise(std={std!r}): write a number above 0, as 0.01.")
        self.std = std
        self._draws = OwnDraws("WeightNoise", seed)
        self._kept: list[tuple[nn.Parameter, Tensor]] = []  # what has noise, as it is without
        # with its noise and without, while there is a validation in the middle of a batch
        self._noisy: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._weights: list[nn.Parameter] = []  # that had noise last
        self._clean: list[Tensor] | None = None  # of a snapshot that was taken of noisy weights

    @property
    def draws(self) -> PythonState | None:
        """The state of its random numbers."""
        return self._draws.state

    @draws.setter
    def draws(self, state: PythonState | None) -> None:
        self._draws.state = state

    @property
    def clean(self) -> list[Tensor] | None:
        """The weights without noise, while they have it in the middle of a batch; else None."""
        return [value for _, value in self._kept] or None

    @clean.setter
    def clean(self, clean: list[Tensor] | None) -> None:
        self._kept = [] if clean is None else self._kept  # those of a snapshot are about to come
        self._clean = clean

    def before_fit(self, learn: LearnerProtocol) -> None:
        check_alone(self, learn)
        _ = self._draws.source

    def before_batch(self, learn: LearnerProtocol) -> None:
        if self._clean is not None:
            self._weights = self._weights or trained_of(learn)
        self.take_off()  # of a batch that was left in the middle
        if not learn.training:
            return
        weights = trained_of(learn)
        self._kept = [(weight, weight.detach().clone()) for weight in weights]
        self._weights = weights
        self._put_on(weights)

    def after_backward(self, learn: LearnerProtocol) -> None:
        self.take_off()

    def before_validate(self, learn: LearnerProtocol) -> None:
        self._noisy = [(weight, weight.detach().clone(), value) for weight, value in self._kept]
        self.take_off()

    @torch.no_grad()
    def after_validate(self, learn: LearnerProtocol) -> None:
        if self._noisy:  # in the middle of a batch, which goes on with its noise
            self._kept = [(weight, value) for weight, _, value in self._noisy]
            for weight, noisy, _ in self._noisy:
                weight.copy_(noisy)
        self._noisy = []

    def after_train(self, learn: LearnerProtocol) -> None:
        self.take_off()

    def after_epoch(self, learn: LearnerProtocol) -> None:
        self.take_off()

    def after_fit(self, learn: LearnerProtocol) -> None:
        self.take_off()

    def cleanup_fit(self, learn: LearnerProtocol) -> None:
        self.take_off()
        self._weights, self._noisy = [], []

    @torch.no_grad()
    def take_off(self) -> None:
        """Give the weights back as they were; where they have no noise, do nothing."""
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
        seed = self._draws.source.getrandbits(63)  # one a batch, so that no state of a device is to be kept
        for weight in weights:
            if weight.device not in generators:
                generators[weight.device] = generator_on(weight.device, seed)
            noise = torch.empty_like(weight).normal_(0, self.std, generator=generators[weight.device])
            weight.add_(noise)


def trained_of(learn: LearnerProtocol) -> list[nn.Parameter]:
    """The weights that get noise."""
    return [each for each in learn.model.parameters() if each.requires_grad and not is_lazy(each)]


def check_alone(plugin: WeightNoise, learn: LearnerProtocol) -> None:
    """Refuse two at a time: the second would take the first one's noisy weights for those to give back.

    Raises:
        ValueError: names both.
    """
    found = [each for each in learn.callbacks if isinstance(unwrapped(each), WeightNoise)]
    if len(found) > 1 and not all(isinstance(each, When) for each in found):
        other = next(each for each in map(unwrapped, found) if each is not plugin)
        raise ValueError(
            f"{describe(plugin)} and {describe(other)} both add noise to the weights: leave one out (their "
            "variances would add up), or give each its time, as When(WeightNoise(0.1), until='5 epochs') and "
            "When(WeightNoise(0.01), start='5 epochs')."
        )


def generator_on(device: torch.device, seed: int) -> torch.Generator | None:
    """A generator of that device; None where it has none, as "meta"."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


class StochasticDepth(nn.Module):
    """Drop a whole branch for some items of a batch, at random: a layer for models with shortcuts.

        x = x + self.drop(self.branch(x))

    In training each item's row is set to 0 with probability `p`, and the others are divided by `1 - p`, so
    that the mean stays; in evaluation nothing is done. It draws from torch's random state, as `nn.Dropout`
    does.

    Args:
        p: probability with which an item does without the branch, in [0, 1].

    Raises:
        ValueError: `p` is no such number.

    Source: Huang et al. 2016, arXiv:1603.09382, equation 5, with the scale in training in place of testing,
        and per item of a batch.
    """

    def __init__(self, p: float):
        super().__init__()
        if not is_number(p) or not 0 <= p <= 1:
            raise ValueError(f"StochasticDepth({p!r}): write a probability from 0 to 1.")
        self.p = p

    @staticmethod
    def rates(n: int, last: float = 0.5) -> list[float]:
        """The probabilities of `n` branches in a row, from `last / n` in the first up to `last`.

        Source: Huang et al. 2016, equation 4.
        """
        return [last * (index + 1) / n for index in range(n)]

    def forward(self, x: Tensor) -> Tensor:
        """Drop rows of `x`, shape (items, ...); shape and dtype stay."""
        if not self.training or self.p == 0:
            return x
        shape = (len(x), *(1 for _ in x.shape[1:]))
        kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * kept if self.p == 1 else x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"p={self.p}"
