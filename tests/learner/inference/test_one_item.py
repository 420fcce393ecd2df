"""`predict` recognises one item by the shapes of the training batches, and treats the rest as a batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Checkpoint, Metrics, ZeroGrad
from learner import Data, Learner, TensorLoader

X, Y = torch.rand(8, 3), torch.rand(8, 1)


def make(model, *batches, **settings):
    return Learner(
        model, Data(list(batches), **settings), F.mse_loss, partial(torch.optim.SGD, lr=0.0), defaults=()
    )


def linear():
    return make(nn.Linear(3, 1), (X, Y))


@pytest.mark.parametrize(
    "item",
    [X[0], X[0].numpy(), X[0].tolist(), (X[0],), (X[0].tolist(),)],
    ids=["tensor", "array", "list", "tuple", "tuple of a list"],
)
def test_one_item_of_every_kind_has_a_result_without_batch_dimension(item, capsys):
    learn = linear()
    expected = learn.predict(X)[0]
    for _ in range(2):
        assert torch.allclose(learn.predict(item), expected)
    message = "predict: one item of shape (3,), because training batches have the shape (batch, 3)"
    assert capsys.readouterr().out.count(message) == 1


def test_a_batch_stays_a_batch(capsys):
    learn = linear()
    for batch in (X, X.numpy(), X.tolist(), [X], {"input": X}):
        assert learn.predict(batch).shape == (8, 1)
    assert learn.predict(X[:1]).shape == (1, 1)
    assert capsys.readouterr().out == ""


def test_an_image_of_any_size_is_one_item_and_a_stack_of_them_a_batch():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = make(model, (torch.rand(4, 3, 8, 8), torch.rand(4, 2)))
    assert learn.predict(torch.rand(3, 8, 8)).shape == (2,)
    assert learn.predict(torch.rand(3, 9, 7)).shape == (2,)
    assert learn.predict(torch.rand(1, 3, 8, 8)).shape == (1, 2)


def test_tokens_of_any_length_are_one_item():
    learn = make(nn.EmbeddingBag(10, 2), (torch.randint(10, (4, 5)), torch.rand(4, 2)))
    for tokens in (torch.randint(10, (5,)), torch.randint(10, (9,)), [1, 2, 3], np.array([1, 2])):
        assert learn.predict(tokens).shape == (2,)
    assert learn.predict([[1, 2, 3]]).shape == (1, 2)


def test_scalars_are_items_of_a_model_that_trained_on_scalars():
    learn = make(Scale(), (torch.arange(5.0), torch.rand(5)))
    assert learn.predict(3.0) == 6
    assert learn.predict(3) == 6
    assert learn.predict(torch.tensor(3.0)).shape == ()
    assert learn.predict(np.float32(3)).shape == ()
    assert learn.predict([3.0]).shape == (1,)
    assert learn.predict(torch.arange(5.0)).shape == (5,)


class Scale(nn.Module):
    """A model that doubles its input."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.factor * x


class Two(nn.Module):
    """A model with two inputs of different lengths, and two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 1), nn.Linear(2, 1)

    def forward(self, a, b):
        return self.a(a), {"b": self.b(b)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_lists_and_arrays_get_the_type_of_the_training_data(dtype):
    learn = make(nn.Linear(3, 1).to(dtype), (X.to(dtype), Y.to(dtype)))
    for item in ([1, 2, 3], np.arange(3.0), np.arange(3.0, dtype="float32")):
        assert learn.predict(item).dtype is dtype


def test_several_inputs_are_one_item_only_together():
    learn = make(Two(), (X, torch.rand(8, 2), Y), n_inputs=2)
    learn.loss_func = lambda preds, targets: F.mse_loss(preds[0], targets)
    first, rest = learn.predict((X[0], torch.rand(2)))
    assert first.shape == rest["b"].shape == (1,)
    first, rest = learn.predict((X[0].tolist(), [1.0, 2.0]))
    assert first.shape == rest["b"].shape == (1,)
    first, rest = learn.predict((X, torch.rand(8, 2)))
    assert first.shape == rest["b"].shape == (8, 1)


def test_keywords_are_one_item_too_and_keys_of_targets_are_left_out():
    learn = make(Two(), {"a": X, "b": torch.rand(8, 2), "y": Y}, targets="y")
    first, _ = learn.predict({"a": X[0], "b": [1, 2], "y": Y[0]})
    assert first.shape == (1,)
    assert learn.predict({"a": X, "b": torch.rand(8, 2)})[0].shape == (8, 1)


def test_an_item_of_a_list_is_predicted_alone():
    class Sizes(Scale):
        def forward(self, pictures):
            return [{"size": self.factor * picture.numel()} for picture in pictures]

    learn = make(Sizes(), ([torch.rand(3, 4, 4), torch.rand(3, 5, 5)], torch.rand(2)))
    assert learn.predict(torch.rand(3, 2, 2)) == {"size": 24}
    assert learn.predict([torch.rand(3, 2, 2)]) == [{"size": 24}]


def test_time_first_sequences_get_their_items_in_the_second_dimension():
    learn = make(
        nn.Linear(3, 2), (torch.rand(7, 4, 3), torch.rand(7, 4, 2)), n_items=lambda batch: batch[0].shape[1]
    )
    assert learn.predict(torch.rand(7, 3)).shape == (7, 2)
    assert learn.predict(torch.rand(5, 3)).shape == (5, 2)


def test_an_input_that_is_neither_gets_the_shapes_with_the_error_of_the_model():
    with pytest.raises(RuntimeError) as caught:
        linear().predict(torch.rand(7))
    assert any("training batches have the shape (batch, 3)" in each for each in caught.value.__notes__)


def test_looking_at_the_data_disturbs_neither_random_states_nor_iterators():
    seen = []

    class Rows(TensorDataset):
        def __init__(self):
            super().__init__(X, Y)
            self.generator = torch.Generator().manual_seed(0)

        def __getitem__(self, index):
            torch.rand(1, generator=self.generator)
            return super().__getitem__(index)

    dataset, generator = Rows(), torch.Generator().manual_seed(0)
    rows = DataLoader(dataset, 4, shuffle=True, generator=generator)
    once = iter([(X, Y)])
    used_up = (each for each in once)
    loaders = [rows, TensorLoader((X, Y), 4, shuffle=True), [(X, Y)], lambda: iter([(X, Y)])]
    for loader in loaders:
        learn = Learner(nn.Linear(3, 1), Data(loader), F.mse_loss, defaults=())
        states = [torch.get_rng_state(), generator.get_state(), dataset.generator.get_state()]
        assert learn.predict(X[0]).shape == (1,)
        now = [torch.get_rng_state(), generator.get_state(), dataset.generator.get_state()]
        assert all(map(torch.equal, states, now))
        seen.append(getattr(loader, "state_dict", lambda: None)())
    assert seen[1]["epoch"] == 0
    for loader in (used_up, lambda: used_up):
        learn = Learner(nn.Linear(3, 1), Data(loader), F.mse_loss, defaults=())
        assert learn.predict(X).shape == (8, 1)
    assert len(list(used_up)) == 1


def test_the_first_batch_of_a_fit_shows_the_items_of_data_that_is_read_once():
    def fresh():
        yield X, Y

    class Once:
        def __iter__(self):
            return fresh()

    learn = Learner(nn.Linear(3, 1), Data(Once()), F.mse_loss, partial(torch.optim.SGD, lr=0.1))
    assert learn.predict(X[0]).shape == (1,)  # of nn.Linear, which takes both
    with learn.without("progress"):
        learn.fit(1)
    learn.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    seen = []
    learn.predict(X[0])
    assert seen == [(1, 3)]


@pytest.mark.parametrize("way", ["load", "load only the weights", "load_best"])
def test_a_learner_without_data_recognises_one_item_by_the_file_that_it_loaded(tmp_path, way):
    saving = Checkpoint(tmp_path / "run", best="valid_loss")
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GroupNorm(1, 2), nn.Flatten())
    batches = [[(torch.rand(4, 3, 8, 8), torch.rand(4, 72))] for _ in range(2)]
    sgd = partial(torch.optim.SGD, lr=0.1)
    learn = Learner(model, tuple(batches), F.mse_loss, sgd, defaults=(ZeroGrad, Metrics, saving))
    learn.fit(1)
    image = torch.rand(3, 8, 8)
    expected = learn.predict(image)
    other = Learner(model, Data([]), F.mse_loss, defaults=())
    if way == "load_best":
        other.load_best(tmp_path / "run")
    else:
        other.load(learn.save(tmp_path / "model.pt"), only="model")
    assert other.predict(image).equal(expected)
    assert other.predict(image[None]).equal(expected[None])
    other.save(tmp_path / "again.pt")
    third = Learner(model, Data([]), F.mse_loss, defaults=())
    third.load(tmp_path / "again.pt", only=None if way == "load" else "model")
    assert third.predict(image).equal(expected)


def test_a_learner_that_knows_no_shapes_says_that_it_took_a_batch():
    learn = Learner(nn.Sequential(nn.Flatten(), nn.Linear(3, 1)), Data([]), F.mse_loss, defaults=())
    with pytest.raises(IndexError) as caught:
        learn.predict(torch.rand(3))
    (note, *_) = [each for each in caught.value.__notes__ if "predict" in each]
    assert note.startswith("predict treated a tensor of shape (3,) with dtype torch.float32 as a batch")
