"""Models that cannot be exported, and the message that shows what to do."""

from __future__ import annotations

import sys

import onnxruntime
import pytest
import torch
from small_files import small_files
from torch import nn
from torch.nn import functional as F
from upper.exported import Decides, make

from callbacks import Callback, LearnerWarning
from learner import Data, Learner


class Loops(nn.Module):
    """A model that loops over the items in Python."""

    def forward(self, x):
        return torch.stack([item * 2 for item in x])


class Fixed(nn.Module):
    """A model of exactly five items."""

    def forward(self, x):
        return x.view(5, 3).sum(1) + torch.arange(5)


class Bessel(nn.Module):
    """A model with an operator that ONNX lacks."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


# What cannot be exported ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            Loops(),
            r"constant 5 \(line \d+ of .*test_export_refusals\.py: return torch\.stack.*dynamic=\(\)",
        ),
        (Decides(), r"on the values of a tensor \(line \d+ of .*: if x\.sum\(\) > 0:\).*torch\.where"),
        (Fixed(), r"takes 5 items, but no other number of them: .*pass dynamic=\(\)"),
    ],
    ids=["loop over items", "control flow", "fixed number of items"],
)
def test_an_error_names_the_line_and_what_to_do(tmp_path, model, words):
    with pytest.raises(ValueError, match=words):
        make(model, torch.rand(5, 3)).export(tmp_path / "model.pt2")
    assert not any(tmp_path.iterdir())


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    words = (
        r"cannot convert the operator [\w.]+bessel_j0 \(line \d+ of .*: return torch\.special.*export a \.pt2"
    )
    with pytest.raises(ValueError, match=words):
        make(Bessel(), torch.rand(5, 3)).export(tmp_path / "model.onnx")


def test_an_output_that_is_not_a_tensor_is_named(tmp_path):
    class Counts(nn.Module):
        def forward(self, x):
            return x * 2, 3

    with pytest.raises(ValueError, match=r"contains 3 \(int\), and an ONNX file returns only tensors"):
        make(Counts(), torch.rand(5, 3)).export(tmp_path / "model.onnx")


def test_a_number_type_that_onnx_runtime_lacks_is_reported(tmp_path):
    learn = make(nn.Linear(3, 2).bfloat16(), torch.rand(5, 3).bfloat16())
    with pytest.raises(ValueError, match=r"Gemm.*bfloat16 .* export a copy in float32"):
        learn.export(tmp_path / "model.onnx")


def test_a_fixed_number_of_items_can_be_exported(tmp_path):
    learn = make(Fixed(), torch.rand(5, 3))
    learn.export(tmp_path / "model.pt2", dynamic=())
    x = torch.rand(5, 3)
    assert torch.export.load(tmp_path / "model.pt2").module()(x).equal(learn.predict(x))


def test_a_callback_that_changes_the_inputs_is_named(tmp_path):
    class Scale(Callback):
        def before_batch(self, learn):
            learn.inputs = (learn.inputs[0] * 255,)

    learn = make(nn.Linear(3, 2), torch.rand(5, 3), callbacks=[Scale])
    with pytest.raises(ValueError, match=r"Nothing was written\. Callbacks that may change .*: Scale"):
        learn.export(tmp_path / "model.pt2")
    assert not any(tmp_path.iterdir())


def test_a_callback_that_adds_inputs_is_named_with_what_to_do(tmp_path):
    class Pair(nn.Module):
        def forward(self, x, scale):
            return x * scale

    class AddScale(Callback):
        def before_batch(self, learn):
            learn.inputs = (*learn.inputs, torch.tensor(2.0))

    learn = make(Pair(), torch.rand(5, 3), callbacks=[AddScale])
    fix = r"with learn\.without\(AddScale\): learn\.export\(path, example={'x': \.\.\., 'scale': \.\.\.}\)"
    with pytest.raises(ValueError, match=rf"missing a required argument: 'scale'.* AddScale may .*{fix}"):
        learn.export(tmp_path / "model.pt2")
    with learn.without(AddScale):
        learn.export(tmp_path / "model.pt2", example={"x": torch.rand(5, 3), "scale": torch.rand(5, 1)})


def test_a_random_model_is_exported_with_a_warning(tmp_path):
    class Draws(nn.Module):
        def forward(self, x):
            return F.dropout(x)

    with pytest.warns(LearnerWarning, match="differs from call to call in evaluation mode"):
        make(Draws(), torch.rand(5, 3)).export(tmp_path / "model.pt2")


def test_an_unknown_suffix_and_a_missing_package_are_refused(tmp_path, monkeypatch):
    learn = make(nn.Linear(3, 2), torch.rand(5, 3))
    with pytest.raises(ValueError, match=r"the suffix must be '\.pt2'"):
        learn.export(tmp_path / "model.pkl")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'onnxruntime: pip install "plainlearner\[onnx\]"'):
        learn.export(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("dynamic", "error", "words"),
    [
        (1, TypeError, r"pass dimensions, such as \(0,\)"),
        ("batch", TypeError, r"pass dimensions, such as \(0,\)"),
        ((2,), ValueError, r"dimensions of the inputs, which have 2"),
        ((-1,), ValueError, r"dimensions of the inputs, which have 2"),
    ],
)
def test_dimensions_that_do_not_exist_are_refused(tmp_path, dynamic, error, words):
    with pytest.raises(error, match=words):
        make(nn.Linear(3, 2), torch.rand(5, 3)).export(tmp_path / "model.pt2", dynamic=dynamic)


def test_an_empty_batch_is_refused(tmp_path):
    learn = make(nn.Linear(3, 2), torch.rand(0, 3), n_items=0)
    with pytest.raises(ValueError, match="has no items: pass example=inputs"):
        learn.export(tmp_path / "model.pt2")


def test_a_file_of_a_deep_folder_is_written(tmp_path):
    learn = make(nn.Linear(3, 2), torch.rand(5, 3))
    learn.export(tmp_path / "a" / "b" / "model.onnx")
    assert onnxruntime.InferenceSession(tmp_path / "a" / "b" / "model.onnx").get_inputs()[0].shape[1] == 3


def test_a_dimension_that_cannot_vary_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no other size in dimension 1, so leave it out: "):
        make(nn.Linear(3, 2), torch.rand(5, 3)).export(tmp_path / "a.pt2", dynamic=(0, 1))


def test_the_weights_of_a_model_without_weights_are_loaded(tmp_path):
    learn = Learner(nn.Flatten(), Data([(torch.rand(5, 2), torch.rand(5, 2))]), F.mse_loss)
    for name in ("a.safetensors", "a.pt"):
        learn.export(tmp_path / name)
        learn.load(tmp_path / name)


@pytest.mark.parametrize("suffix", ["pt2", "onnx", "safetensors", "pt"])
def test_a_full_disk_is_an_error_of_the_file_and_leaves_the_former_one(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"kept")
    with small_files(), pytest.raises(OSError, match="File too large"):
        make(nn.Linear(30, 2), torch.rand(5, 30)).export(path)
    assert path.read_bytes() == b"kept"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_model_that_cannot_take_made_up_inputs_asks_for_an_example(tmp_path):
    class Divides(nn.Module):
        def forward(self, n):
            if (n == 0).any():
                raise RuntimeError("a length is 0")
            return 1 / n

    lengths = torch.arange(1, 6)
    learn = make(Divides(), lengths)
    learn.predict(lengths)
    learn.save(tmp_path / "model.pt")
    other = Learner(Divides(), Data([]), F.mse_loss, defaults=())
    other.load(tmp_path / "model.pt", only="model")
    with pytest.raises(RuntimeError, match="a length is 0") as caught:
        other.export(tmp_path / "model.pt2")
    assert any("pass example=inputs" in note for note in caught.value.__notes__)
