"""Predictions over a loader: inputs, losses per item, test-time augmentation, and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import DevicePlacement, ZeroGrad
from learner import Data, Interpretation, Learner, TensorLoader
from learner.inference import gathering


def make(loss=F.mse_loss, model=None, batches=None):
    torch.manual_seed(0)
    batches = batches or [(torch.rand(n, 3), torch.rand(n, 1)) for n in (4, 4, 2)]
    return Learner(model or nn.Linear(3, 1), Data(batches, batches), loss, defaults=())


@pytest.mark.parametrize("n_batches", [1, 2, 9, 20])
@pytest.mark.parametrize("has_length", [True, False])
def test_loaders_of_every_length_are_joined_like_torch_cat(n_batches, has_length):
    batches = [(torch.rand(n, 3), torch.rand(n, 1)) for n in range(1, n_batches + 1)]
    learn = make()
    preds, targets = learn.get_preds(batches if has_length else lambda: iter(batches))
    assert torch.equal(targets, torch.cat([y for _, y in batches]))
    assert torch.equal(preds, torch.cat([learn.model(x).detach() for x, _ in batches]))
    assert preds.untyped_storage().nbytes() <= 4 * (len(preds) + len(batches[0][0]))


def test_the_memory_of_the_result_has_its_size_where_the_number_of_items_is_known():
    learn, columns = make(), (torch.rand(10, 3), torch.rand(10, 1))
    for loader in (TensorLoader(columns, 4), TensorLoader(columns, 4, drop_last=True)):
        preds, _ = learn.get_preds(loader)
        assert preds.untyped_storage().nbytes() == 4 * len(preds)
    preds, _ = learn.get_preds(DataLoader(TensorDataset(*columns), 4))
    assert preds.untyped_storage().nbytes() == 4 * 10


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.complex64]
)
def test_every_dtype_is_kept_in_memory_and_on_disk(dtype, tmp_path):
    learn = make()
    expected = torch.cat([(learn.model(x) > 0.2).to(dtype) for x, _ in learn.data.valid])

    def keep(output):
        return (output > 0.2).to(dtype)

    assert torch.equal(learn.get_preds(keep=keep)[0], expected)
    stored, _ = learn.get_preds(keep=keep, to=tmp_path / "preds.npy")
    assert torch.equal(torch.tensor(np.asarray(stored)).to(dtype), expected)


def test_inputs_are_returned_in_the_order_of_the_predictions():
    learn = make()
    preds, _, inputs = learn.get_preds(with_inputs=True)
    assert torch.equal(learn.model(inputs), preds)
    learn = make(batches=[{"input": torch.rand(n, 3), "y": torch.rand(n, 1)} for n in (4, 2)])
    learn.data.target_keys = ("y",)
    assert learn.get_preds(with_inputs=True)[2]["input"].shape == (6, 3)


def double(x):
    return 2 * x


def test_augmented_predictions_are_the_mean_over_the_versions():
    learn = make()
    preds, targets = learn.get_preds(tta=double)
    x, y = map(torch.cat, zip(*learn.data.valid, strict=True))
    with torch.no_grad():
        assert torch.allclose(preds, (learn.model(x) + learn.model(2 * x)) / 2)
        both = (learn.model(x) + learn.model(2 * x) + learn.model(-x)) / 3
    preds, targets, inputs, losses = learn.get_preds(
        tta=[double, lambda x: -x], with_inputs=True, with_loss=True
    )
    assert torch.allclose(preds, both)
    assert torch.equal(targets, y)
    assert torch.equal(inputs, x)
    assert torch.allclose(losses, ((both - y) ** 2)[:, 0])


def test_a_change_is_undone_in_the_output():
    learn = make(model=nn.Identity())
    preds, _, inputs = learn.get_preds(tta=[(torch.fliplr, torch.fliplr)], with_inputs=True)
    assert torch.equal(preds, inputs)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"tta": 3}, TypeError, r"tta=3\): pass a function"),
        ({"tta": []}, TypeError, "pass a function"),
        ({"tta": ["flip"]}, TypeError, "contains 'flip'"),
        ({"tta": torch.neg, "keep": lambda output: output > 0}, TypeError, "let the model return scores"),
        ({"tta": lambda x: x[:2]}, ValueError, "To undo a change in the output"),
        ({"tta": torch.neg, "keep": abs, "with_loss": True}, ValueError, "Leave keep out"),
        ({"with_loss": "no"}, TypeError, "must be True or False"),
        ({"to": "preds.csv"}, ValueError, r"ends in \.npy"),
        ({"to": "x.npy", "returns": "batches"}, ValueError, "leave one out"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        make().get_preds(**settings)


def test_results_have_the_name_of_the_pass():
    learn = Learner(
        nn.Linear(3, 1), Data([(torch.rand(4, 3), torch.rand(4, 1))]), F.mse_loss, metrics=[F.l1_loss]
    )
    test = TensorLoader((torch.rand(6, 3), torch.rand(6, 1)), 4)
    found = learn.test(test)
    assert list(found) == ["test_loss", "test_l1_loss"]
    assert list(learn.validate(test).values()) == list(found.values())
    assert list(learn.validate(test, name="shifted")) == ["shifted_loss", "shifted_l1_loss"]
    with pytest.raises(ValueError, match="there is no test data"):
        learn.test()
    learn.data = Data(learn.data.train, test=test)
    assert learn.test() == found
    for name in ("train", "Test", "", None):
        with pytest.raises(ValueError, match="Pass a word in lower case"):
            learn.validate(test, name=name)


def test_a_model_that_writes_each_output_to_the_same_memory_is_gathered():
    class Reuse(nn.Linear):
        buffer = torch.zeros(4, 1)

        def forward(self, x):
            return torch.add(super().forward(x), 0, out=self.buffer)

    learn = make(model=Reuse(3, 1), batches=[(torch.rand(4, 3), torch.rand(4, 1)) for _ in range(3)])
    learn.add_callbacks(ZeroGrad)
    preds, _ = learn.get_preds()
    assert len(preds.unique()) == 12


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [3, 3, 2], [3, 1], [3]])
def test_on_cuda_a_batch_is_copied_while_the_next_one_is_computed(monkeypatch, sizes):
    class Imitated:
        """A copy from a device, whose numbers exist only after a wait."""

        def __init__(self, rows):
            log.append("start")
            self.rows = rows.clone()

        def wait(self):
            log.append("wait")
            return self.rows

    log = []
    learn = make(batches=[(torch.rand(size, 3), torch.rand(size, 2)) for size in sizes])
    expected, _ = learn.get_preds()
    monkeypatch.setattr(gathering, "is_on_cuda", lambda tensor: tensor.shape[1] == 1)  # the predictions
    monkeypatch.setattr(gathering, "Arrival", Imitated)
    found, _ = learn.get_preds()
    assert torch.equal(found, expected)
    assert log == ["start", *["start", "wait"] * (len(sizes) - 1), "wait"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_predictions_are_those_of_the_cpu():
    learn = make()
    expected, _ = learn.get_preds()
    learn.add_callbacks(DevicePlacement("cuda"))
    found, _ = learn.get_preds()
    assert found.is_cpu
    torch.testing.assert_close(found, expected)


class JoinsSteps(nn.Sequential):
    """A model of tokens whose output has a row for each token of each item."""

    def __init__(self):
        super().__init__(nn.Embedding(11, 4), nn.Linear(4, 11))

    def forward(self, tokens):
        return super().forward(tokens).flatten(0, 1)


@pytest.mark.parametrize("n_items", [2, 3, 11])  # as many items as classes too
def test_an_item_has_the_mean_loss_of_its_tokens_though_the_output_joins_items_and_tokens(n_items):
    def loss(preds, targets):
        return F.cross_entropy(preds, targets.flatten())

    tokens = torch.randint(11, (n_items, 5))
    learn = make(loss, JoinsSteps(), [(tokens, tokens)])
    preds, targets, losses = learn.get_preds(with_loss=True)
    of_tokens = F.cross_entropy(preds, targets.flatten(), reduction="none")
    torch.testing.assert_close(losses, of_tokens.view(n_items, 5).mean(1))
    found = Interpretation(learn)
    top = found.top_losses(2)
    assert torch.equal(top.preds, preds.view(n_items, 5, 11)[top.indices])


def test_joined_items_and_tokens_are_refused_for_a_file_with_a_hint_to_separate_them(tmp_path):
    tokens = torch.randint(11, (3, 5))
    learn = make(F.cross_entropy, JoinsSteps(), [(tokens, tokens.flatten())])
    learn.data.count_items = lambda batch: len(batch[0])
    with pytest.raises(ValueError, match=r"\(15, 11\).*3 items.*unflatten\(0, \(-1, 5\)\)"):
        learn.get_preds(to=tmp_path / "preds.npy")
    preds, _ = learn.get_preds(to=tmp_path / "preds.npy", keep=lambda output: output.unflatten(0, (-1, 5)))
    assert preds.shape == (3, 5, 11)


@pytest.mark.parametrize(
    ("loss", "batch", "words"),
    [
        (F.mse_loss, torch.ones(2, 3), "targets, None. The batch was a tensor of shape (2, 3)"),
        (F.cross_entropy, (torch.ones(2, 3), torch.tensor([0, 5])), "The targets range from 0 to 5"),
    ],
)
def test_an_error_in_the_loss_of_an_item_shows_what_the_loss_received(loss, batch, words):
    with pytest.raises((AttributeError, IndexError)) as caught:
        make(loss).get_preds([batch], with_loss=True)
    assert words in "".join(caught.value.__notes__)
