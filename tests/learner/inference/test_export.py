"""An exported model agrees with `predict`, in a process that has neither the library nor the user's code."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence
from upper.exported import Decides, make, sgd

from callbacks import EMA, Callback, MixedPrecision, ZeroGrad
from learner import Data, Learner


def network():
    """A model whose output in training mode differs from that in evaluation mode."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


class Sums(nn.Module):
    """A model of several inputs."""

    def forward(self, first, second):
        return first.sum(1) + second.sum(1)


class Keywords(nn.Module):
    """A model of any keywords."""

    def forward(self, **batch):
        return batch["first"].sum(1) + batch["second"].sum(1)


@dataclass
class Named:
    """An output that a process without this file cannot load."""

    logits: torch.Tensor
    rest: tuple
    cache: None = None


class Several(nn.Module):
    """A model with several outputs in a data class."""

    def forward(self, x):
        return Named(x * 2, (x.sum(1), {"size": x.norm(dim=1)}))


class Reads(nn.Module):
    """A model of an embedding and an attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attend = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, tokens):
        return self.attend(self.embed(tokens)).mean(1)


def alone(code, *blocked):
    """The output of a new process that cannot import some packages."""
    blocks = f"import sys; sys.modules.update(dict.fromkeys({[*blocked]!r}))\n"
    done = subprocess.run([sys.executable, "-c", blocks + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_program_runs_in_a_process_that_has_only_torch(tmp_path):
    x = torch.rand(4, 3)
    learn = make(network(), torch.rand(5, 3))
    learn.export(tmp_path / "model.pt2")
    code = f"import torch\nprogram = torch.export.load({str(tmp_path / 'model.pt2')!r}).module()\n"
    code += f"print(program(torch.tensor({x.tolist()})).tolist())"
    assert torch.tensor(alone(code, "learner", "callbacks")).equal(learn.predict(x))


def test_an_onnx_file_runs_in_a_process_that_has_only_onnx_runtime(tmp_path, capsys):
    x = torch.rand(4, 3)
    learn = make(network(), torch.rand(5, 3))
    learn.export(tmp_path / "model.onnx")
    assert "with the inputs input ['batch', 3]; checked with 1, 5, 6 items" in capsys.readouterr().out
    code = f"""
import json, numpy, onnxruntime
session = onnxruntime.InferenceSession({str(tmp_path / "model.onnx")!r})
found = session.run(None, {{"input": numpy.array({x.tolist()}, dtype="float32")}})
print(json.dumps(found[0].tolist()))
"""
    found = torch.tensor(alone(code, "learner", "callbacks", "torch"))
    torch.testing.assert_close(found, learn.predict(x))


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_a_state_dict_of_the_bare_model(tmp_path, suffix):
    learn = make(torch.compile(network(), backend="eager"), torch.rand(5, 3))
    with torch.no_grad():
        learn.model.get_submodule("_orig_mod.0").weight.mul_(2)
    learn.export(path := tmp_path / f"model.{suffix}", example=torch.rand(3, 3))
    state = safetensors.torch.load_file(path) if suffix == "safetensors" else torch.load(path)
    model = network()
    model.load_state_dict(state)
    x = torch.rand(4, 3)
    assert model.eval()(x).equal(learn.model._orig_mod.eval()(x))


def test_tied_weights_are_written_under_each_of_their_names(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    learn = make(model, torch.rand(5, 3), targets=torch.rand(5, 3))
    learn.export(path := tmp_path / "model.safetensors")
    assert {*safetensors.torch.load_file(path)} == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Sums(), (torch.rand(5, 3), torch.rand(5, 4))),
        (Several(), (torch.rand(5, 3),)),
        (Reads(), (torch.randint(0, 7, (5, 6)),)),
        (nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()), (torch.rand(5, 3),)),
        (nn.Linear(3, 2).double(), (torch.rand(5, 3).double(),)),
        (nn.Linear(3, 2).bfloat16(), (torch.rand(5, 3).bfloat16(),)),
        (nn.Linear(3, 2), (torch.rand(1, 3),)),
    ],
    ids=["two inputs", "data class", "tokens", "lazy", "float64", "bfloat16", "one item"],
)
def test_models_of_all_kinds_are_exported(tmp_path, capsys, model, inputs):
    learn = make(model, *inputs, n_items=len(inputs[0]))
    assert learn.export(tmp_path / "model.pt2") == tmp_path / "model.pt2"
    assert re.search(r"largest difference from learn\.predict: (0|\d.*e-0[789])$", capsys.readouterr().out)


@pytest.mark.parametrize("model", [Sums(), Keywords()], ids=["by name", "any keywords"])
def test_a_program_takes_the_keywords_of_a_batch(tmp_path, model, capsys):
    batch = {"first": torch.rand(5, 3), "second": torch.rand(5, 4), "y": torch.rand(5)}
    learn = Learner(model, Data([batch], targets="y"), F.mse_loss, defaults=())
    learn.export(tmp_path / "model.pt2")
    assert "for inputs by keyword first (n, 3), second (n, 4); checked" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "model.pt2").module()
    inputs = {"first": torch.rand(2, 3), "second": torch.rand(2, 4)}
    assert program(**inputs).equal(model(**inputs))


def test_outputs_are_plain_containers_without_a_graph(tmp_path):
    make(nn.Sequential(nn.Linear(3, 3), Several()), torch.rand(5, 3)).export(tmp_path / "model.pt2")
    output = torch.export.load(tmp_path / "model.pt2").module()(torch.ones(2, 3))
    assert output.keys() == {"logits", "rest"}
    assert not output["logits"].requires_grad
    assert type(output["rest"]) is tuple


def test_sequences_may_have_any_length(tmp_path, capsys):
    learn = make(Reads(), torch.randint(0, 7, (5, 6)), targets=torch.rand(5, 4))
    learn.export(tmp_path / "model.pt2", dynamic=(0, 1))
    assert "for inputs of shape (n, any); checked" in capsys.readouterr().out
    tokens = torch.randint(0, 7, (3, 9))
    found = torch.export.load(tmp_path / "model.pt2").module()(tokens)
    torch.testing.assert_close(found, learn.predict(tokens))


def test_a_program_holds_no_items_of_the_data(tmp_path):
    make(nn.Linear(3, 2), torch.full((5, 3), 7.25)).export(tmp_path / "model.pt2")
    assert torch.export.load(tmp_path / "model.pt2").example_inputs is None
    assert b"\x00\x00\xe8\x40" * 3 not in (tmp_path / "model.pt2").read_bytes()  # 7.25 in float32


def test_an_example_replaces_the_data(tmp_path):
    learn = Learner(nn.Linear(3, 2), Data([]), F.mse_loss, defaults=())
    with pytest.raises(ValueError, match=r"no batch can be taken from the data .* pass example=inputs"):
        learn.export(tmp_path / "model.pt2")
    learn.export(tmp_path / "model.pt2", example=np.ones((2, 3)))
    assert torch.export.load(tmp_path / "model.pt2").module()(torch.ones(7, 3)).shape == (7, 2)


def test_data_that_is_used_up_needs_an_example(tmp_path):
    data = Data(iter([(torch.rand(5, 3), torch.rand(5, 2))]))
    learn = Learner(nn.Linear(3, 2), data, F.mse_loss, sgd, defaults=(ZeroGrad,))
    with pytest.raises(ValueError, match=r"without using it up"):
        learn.export(tmp_path / "model.pt2")
    learn.fit(1)
    assert learn.global_step == 1


# The learner ----------------------------------------------------------------------------------------------


def state_of(learn):
    """Everything that an export must not change."""
    return copy.deepcopy(
        {
            "weights": {name: each.tolist() for name, each in learn.model.state_dict().items()},
            "modes": [each.training for each in learn.model.modules()],
            "requires_grad": [each.requires_grad for each in learn.model.parameters()],
            "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
            "forward": "forward" in vars(learn.model),
            "error": learn.error,
            "files": None,
        }
    )


@pytest.mark.parametrize("model", [network(), nn.Sequential(network(), Decides())], ids=["works", "fails"])
def test_an_export_leaves_the_learner_unchanged(tmp_path, model):
    learn = make(model, torch.rand(5, 3))
    model[0].requires_grad_(False)
    model[1].eval()
    (tmp_path / "model.pt2").write_text("older")
    before = state_of(learn)
    if isinstance(model[-1], Decides):
        with pytest.raises(ValueError, match="depends on the values"):
            learn.export(tmp_path / "model.pt2")
        assert (tmp_path / "model.pt2").read_text() == "older"
    else:
        learn.export(tmp_path / "model.pt2")
    assert state_of(learn) == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt2"]


def test_a_model_that_cannot_be_copied_is_exported(tmp_path):
    model = network()
    model.source = torch.Generator()
    learn = make(model, torch.rand(5, 3))
    before = state_of(learn)
    learn.export(tmp_path / "model.pt2")
    learn.export(tmp_path / "model.pt")
    assert state_of(learn) == before


def test_the_averages_of_ema_are_exported(tmp_path):
    learn = make(network(), torch.rand(5, 3), callbacks=[EMA(0.5, at_end="weights")])
    learn.fit(2)
    x = torch.rand(4, 3)
    with learn.callbacks[EMA].averaged(learn):
        learn.export(tmp_path / "model.pt2")
        expected = learn.predict(x)
    assert not expected.equal(learn.predict(x))
    assert torch.export.load(tmp_path / "model.pt2").module()(x).equal(expected)


def test_a_model_of_mixed_precision_is_exported_in_its_own_precision_which_the_line_names(tmp_path, capsys):
    learn = make(network(), torch.rand(5, 3), callbacks=[MixedPrecision("bf16")])
    learn.fit(1)
    learn.export(tmp_path / "model.pt2")
    line = " ".join(capsys.readouterr().out.split())
    assert line.endswith(", because predict runs within MixedPrecision, and the file does not")
    assert torch.export.load(tmp_path / "model.pt2").module()(torch.rand(2, 3)).dtype is torch.float32


def test_a_callback_that_exports_leaves_the_fit_as_it_is(tmp_path, make_learner):
    class Exports(Callback):
        def after_epoch(self, learn):
            learn.export(tmp_path / "model.pt2")

    plain, exporting = make_learner(), make_learner(callbacks=[Exports])
    for each in (plain, exporting):
        each.fit(2)
    assert plain.model.weight.equal(exporting.model.weight)


def test_a_cache_is_left_out_of_the_outputs(tmp_path):
    class Caches(nn.Module):
        def forward(self, x):
            return Named(x, (), object())

    learn = make(Caches(), torch.rand(5, 3))
    learn.export(tmp_path / "model.pt2")
    assert torch.export.load(tmp_path / "model.pt2").module()(torch.rand(2, 3)).keys() == {"logits", "rest"}


def test_weights_are_exported_whatever_the_model_takes(tmp_path):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(3, 2)

        def forward(self, packed):
            return self.layer(packed)[1][0]

    packed = pack_sequence([torch.rand(3, 3), torch.rand(2, 3)])
    learn = make(Packed(), packed, n_items=2)
    learn.export(tmp_path / "model.pt")
    assert {*torch.load(tmp_path / "model.pt")} == {*learn.model.state_dict()}
    with pytest.raises(TypeError, match=r"takes a PackedSequence .* pad the items .* weights to a \.pt"):
        learn.export(tmp_path / "model.pt2")
