"""Functions and classes for batches that scripts contain."""

from __future__ import annotations

from typing import Any

ARTICLE = '''
def article() -> tuple[torch.Tensor, torch.Tensor]:
    """20 noisy points of a parabola: time and speed."""
    time = torch.arange(0, 20).float()
    speed = torch.rand(20) * 5 + 0.8 * (time - 7.5) ** 2 + 1
    torch.randn(3)  # the article prints these numbers; its model draws the next three
    return time, speed
'''

DIABETES = """\
found = load_diabetes()
inputs = torch.tensor(found.data, dtype=torch.float32)
targets = torch.tensor(found.target, dtype=torch.float32).unsqueeze(1)
order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(SPLIT_SEED))
held_out, kept = order[:N_VALID], order[N_VALID:]
# standardized by the training data alone
means = [each[kept].mean(0) for each in (inputs, targets)]
deviations = [each[kept].std(0) for each in (inputs, targets)]
parts = list(zip((inputs, targets), means, deviations, strict=True))
train = tuple((each[kept] - mean) / deviation for each, mean, deviation in parts)
valid = tuple((each[held_out] - mean) / deviation for each, mean, deviation in parts)"""

SAME_RANDOM_STATES = '''
@contextmanager
def same_random_states():
    """Restore the random generators at the end of the block."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
'''

IN_ORDER = '''
def in_order(tensors: tuple[torch.Tensor, ...], batch_size: int) -> list[tuple[torch.Tensor, ...]]:
    """Batches of rows in their own order; the last one may be smaller."""
    return list(zip(*(tensor.split(batch_size) for tensor in tensors), strict=True))
'''

SHUFFLED = '''
class ShuffledBatches:
    """Batches of tensors in an order that depends on the seed and the epoch alone."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], batch_size: int, seed: int):
        self.tensors, self.batch_size, self.seed, self.epoch = tensors, batch_size, seed, 0

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self):
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        self.epoch += 1
ORDER
        for rows in order[: len(self) * self.batch_size].split(self.batch_size):
            yield tuple(tensor[rows] for tensor in self.tensors)
'''

BY_ITEMS = """\
        order = torch.randperm(len(self.tensors[0]), generator=generator)"""

BY_BLOCKS = """\
        # blocks of SIZE neighbours are shuffled, and then the items of each WINDOW blocks
        n_items = len(self.tensors[0])
        blocks = torch.randperm(-(-n_items // SIZE), generator=generator).split(WINDOW)
        seeds = torch.randint(2**62, (len(blocks),), generator=generator).tolist()
        parts = []
        for numbers, seed in zip(blocks, seeds, strict=True):
            starts = sorted(number * SIZE for number in numbers.tolist())
            items = torch.cat([torch.arange(start, min(start + SIZE, n_items)) for start in starts])
            own = torch.Generator().manual_seed(seed)
            parts.append(items[torch.randperm(len(items), generator=own)])
        order = torch.cat(parts)"""

ROUNDED_UP = "-(-len(self.tensors[0]) // self.batch_size)"
ROUNDED_DOWN = "len(self.tensors[0]) // self.batch_size  # without a smaller last batch"


def shuffled(loader: Any) -> tuple[str, str]:
    """The class that shuffles as this `TensorLoader` does, and its name."""
    order = BY_ITEMS
    if loader.blocks is not None:
        order = BY_BLOCKS.replace("SIZE", str(loader.blocks.size)).replace(
            "WINDOW", str(loader.blocks.window)
        )
    text = SHUFFLED.replace("ORDER", order)
    text = text.replace("LENGTH", ROUNDED_DOWN if loader.drop_last else ROUNDED_UP)
    return "ShuffledBatches", text
