"""A Hugging Face model, unchanged: a small GPT-2 with random weights learns a rhyme, character by character.

Its batches are dicts, and it computes its own loss, so the learner needs no loss function. Requires `pip
install transformers`; it downloads nothing.

Prints the loss of each epoch, in nats per character, and then a few lines that the model writes.
"""

from functools import partial
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from learner import Data, Learner

TEXT = (Path(__file__).parent / "text.txt").read_text(encoding="utf-8")
CHARACTERS = sorted(set(TEXT))
LENGTH = 64


def batches():
    """The rhyme from a random start, in rows of `LENGTH` characters and batches of eight rows."""
    codes = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    start = int(torch.randint(LENGTH, ()))
    rows = codes[start : start + (len(codes) - start) // LENGTH * LENGTH].reshape(-1, LENGTH)
    for batch in rows[torch.randperm(len(rows))].split(8):
        yield {"input_ids": batch, "labels": batch}


def make_learner(**options):
    """A learner with a new model, the same each time."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(CHARACTERS), n_positions=LENGTH, n_embd=64, n_layer=2, n_head=4,
        bos_token_id=None, eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    return Learner(model, Data(batches), None, partial(torch.optim.AdamW, lr=3e-3), **options)


@torch.no_grad()
def write(learn, text, n_characters):
    """Continue a text with the most likely character each time."""
    model = learn.model.eval()
    for _ in range(n_characters):
        codes = torch.tensor([[CHARACTERS.index(character) for character in text[-LENGTH:]]])
        text += CHARACTERS[int(model(input_ids=codes).logits[0, -1].argmax())]
    return text


def main(n_epochs=100):
    """Train, print a sample, and return the learner."""
    learn = make_learner()
    learn.fit(n_epochs)
    print(write(learn, "This is the ", 150))
    return learn


if __name__ == "__main__":
    main()
