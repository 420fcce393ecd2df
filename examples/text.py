"""A text model: a small GRU learns a nursery rhyme, character by character.

Batches are dicts: the model receives `text` by keyword, and `following` is the target. The model memorizes
the rhyme (text.txt, written for this example), so there is no validation.

Prints the loss of each epoch, in nats per character (a uniform guess has ln(31) = 3.4), and then a few
lines that the model writes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from learner import Data, Learner

TEXT = (Path(__file__).parent / "text.txt").read_text(encoding="utf-8")
CHARACTERS = sorted(set(TEXT))


def main() -> Learner:
    """Train, print a sample, and return the learner."""
    learn = make_learner()
    learn.fit(8)
    print(write(learn, "This is the ", n_characters=300))
    return learn


def make_learner(**options) -> Learner:
    """A learner with a new model, the same one each time."""
    torch.manual_seed(2021)
    return Learner(
        CharacterModel(len(CHARACTERS)),
        Data(batches, targets="following"),
        nn.CrossEntropyLoss(),
        partial(torch.optim.Adam, lr=1e-2),
        **options,
    )


class CharacterModel(nn.Module):
    """Scores the next character at each position, from all characters before it.

    Args:
        n_characters: size of the alphabet.
        n_hidden: size of the GRU's hidden state.
    """

    def __init__(self, n_characters: int, n_hidden: int = 128):
        super().__init__()
        self.embedding = nn.Embedding(n_characters, 32)
        self.memory = nn.GRU(32, n_hidden, batch_first=True)
        self.scores = nn.Linear(n_hidden, n_characters)

    def forward(self, text: Tensor) -> Tensor:
        """Character codes, shape (items, positions), to scores, shape (items, n_characters, positions)."""
        remembered, _ = self.memory(self.embedding(text))
        return self.scores(remembered).transpose(1, 2)


def batches(n_batches: int = 20, batch_size: int = 32, length: int = 64) -> Iterator[dict[str, Tensor]]:
    """An epoch of passages from random places, each with the same passage shifted by one character."""
    passages = encode(TEXT).unfold(0, length + 1, 1)  # one per start, shape (starts, length + 1)
    for _ in range(n_batches):
        chosen = passages[torch.randint(len(passages), (batch_size,))]
        yield {"text": chosen[:, :-1], "following": chosen[:, 1:]}


def write(learn: Learner, text: str, n_characters: int) -> str:
    """Continue a text: sample each next character from the scores, doubled to make mistakes rare."""
    for _ in range(n_characters):
        scores = learn.predict({"text": encode(text[-64:])[None]})[0, :, -1]
        text += CHARACTERS[int(torch.multinomial((2 * scores).softmax(0), 1))]
    return text


def encode(text: str) -> Tensor:
    """The code of each character, shape (characters,)."""
    return torch.tensor([CHARACTERS.index(character) for character in text])


if __name__ == "__main__":
    main()
