"""`learn.load` reads files of plain `torch.save`, and matches names of wrapped models."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks import EMA, Callback, Checkpoint, EarlyStopping
from learner import Data, Learner
from learner.files.checkpoint_file import CheckpointError

compiled = partial(torch.compile, backend="eager")


class Block(nn.Module):
    """A block with batch norm, a buffer outside the state dict, and a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("scale", torch.ones(1), persistent=False)
        self.kept = torch.zeros(1)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.kept = self.kept + 1
        return self.norm(self.layer(inputs)) * self.scale


def plain() -> nn.Module:
    return nn.Sequential(Block(), nn.Linear(3, 1))


def inner(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The same model with a wrapped part."""
    return nn.Sequential(wrap(Block()), nn.Linear(3, 1))


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "compiled": lambda: compiled(plain()),
    "parallel": lambda: nn.DataParallel(plain()),
    "compiled and parallel": lambda: compiled(nn.DataParallel(plain())),
    "a compiled part": lambda: inner(compiled),
    "a parallel part": lambda: inner(nn.DataParallel),
}


def make(model: nn.Module, *callbacks: Any) -> Learner:
    inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    data = Data.from_tensors(inputs, inputs.sum(1, keepdim=True), 8, seed=0)
    return Learner(model, data, F.mse_loss, partial(torch.optim.SGD, lr=0.05, momentum=0.9), callbacks)


def trained(model: Callable[[], nn.Module] = plain) -> Learner:
    torch.manual_seed(0)
    learn = make(model())
    learn.fit(1)
    return learn


def values(learn: Learner) -> list[Tensor]:
    return list(learn.model.state_dict().values())


def same(one: Learner, other: Learner) -> bool:
    return all(map(torch.equal, values(one), values(other)))


@pytest.mark.parametrize("only", [None, "model"])
@pytest.mark.parametrize("form", ["alone", "model", "state_dict", "of parameters and buffers"])
def test_a_state_dict_of_plain_torch_is_loaded(form: str, only: Any, tmp_path: Path, capsys: Any) -> None:
    learn, path = trained(), tmp_path / "weights.pt"
    state: Any = learn.model.state_dict()
    if form.startswith("of"):
        state = {**dict(learn.model.named_parameters()), **dict(learn.model.named_buffers())}
        del state["0.scale"]
    torch.save(state if form.startswith(("alone", "of")) else {form: state, "epoch": 3}, path)
    other = make(plain())
    other.load(path, only=only)
    assert same(other, learn)
    assert "the weights were loaded" in capsys.readouterr().out


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("is_file_wrapped", [True, False])
def test_names_of_wrapped_models_are_matched_both_ways_with_a_note(
    is_file_wrapped: bool, wrapped: Any, is_ours: bool, tmp_path: Path, capsys: Any
) -> None:
    models = (wrapped, plain) if is_file_wrapped else (plain, wrapped)
    learn, path = trained(models[0]), tmp_path / "weights.pt"
    if is_ours:
        learn.save(path)
    else:
        torch.save(learn.model.state_dict(), path)
    other = make(models[1]())
    other.load(path, only="model")
    assert same(other, learn)
    assert capsys.readouterr().out.count("names were matched without") == 1


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("is_file_wrapped", [True, False])
def test_a_run_resumes_with_the_same_bits_if_the_model_is_wrapped_or_unwrapped(
    is_file_wrapped: bool, wrapped: Any, tmp_path: Path
) -> None:
    class Crash(Callback):
        def after_step(self, learn: Any) -> None:
            if learn.global_step == 5:
                raise SystemExit

    def build(model: Callable[[], nn.Module], *callbacks: Any) -> Learner:
        torch.manual_seed(0)
        return make(model(), EMA(0.9), *callbacks)

    models = (wrapped, plain) if is_file_wrapped else (plain, wrapped)
    whole = build(plain)
    whole.fit(3)
    with pytest.raises(SystemExit):
        build(models[0], Checkpoint(tmp_path, "2 steps"), Crash()).fit(3)
    resumed = build(models[1], Checkpoint(tmp_path, "2 steps"))
    resumed.fit(3, resume="must")
    assert same(resumed, whole)
    kept = [each.kept for each in resumed.model.modules() if type(each) is Block]
    assert kept == [torch.tensor([9.0])]


def change(state: dict[str, Any], how: str) -> dict[str, Any]:
    state = dict(state)
    if how == "missing":
        del state["1.bias"]
    elif how == "more":
        state["2.weight"] = torch.ones(1)
    else:
        state["1.weight"] = torch.ones(2, 3)
    return state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"1\.bias missing in the file"),
        ("more", r"2\.weight only in"),
        ("shape", r"1\.weight \(2, 3\) \(here \(1, 3\)\) of another"),
    ],
)
def test_weights_that_match_in_part_are_refused_by_name_and_not_loaded(
    how: str, words: str, tmp_path: Path
) -> None:
    path, other = tmp_path / "weights.pt", make(plain())
    torch.save(change(trained().model.state_dict(), how), path)
    before = [each.clone() for each in values(other)]
    with pytest.raises(ValueError, match=words):
        other.load(path)
    assert all(map(torch.equal, values(other), before))


def test_a_file_with_prefixed_names_is_refused_with_how_to_remove_the_prefix(tmp_path: Path) -> None:
    learn = make(plain())
    state = {f"model.{name}": each for name, each in plain().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.ckpt")
    with pytest.raises(ValueError, match=r"begin with 'model\.'.*removeprefix\('model\.'\)"):
        learn.load(tmp_path / "lightning.ckpt")
    torch.save({f"model.{name}": torch.zeros(1) for name in "ab"}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="another model") as error:
        learn.load(tmp_path / "other.pt")
    assert "removeprefix" not in str(error.value)


def test_one_name_of_a_tied_weight_is_enough(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
        model[1].weight = model[0].weight
        return model

    learn, other = trained(tied), make(tied())
    state = learn.model.state_dict()
    del state["1.weight"]
    torch.save(state, tmp_path / "weights.pt")
    other.load(tmp_path / "weights.pt")
    assert same(other, learn)


def test_a_lazy_model_takes_its_shapes_from_a_state_dict(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).state_dict(), tmp_path / "weights.pt")
    learn = make(nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d()))
    learn.load(tmp_path / "weights.pt")
    assert learn.predict(torch.ones(2, 3)).shape == (2, 2)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        ({"weight": Evil()}, r"names (posix|nt)\.system"),
        (nn.Linear(3, 1), r"may contain only tensors, numbers and text.*load it by hand"),
        ({"epoch": 3}, r"contains a dict with 'epoch'"),
        ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, r"contains a dict with"),
        (torch.ones(3), r"contains a Tensor"),
        ({"net": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}}, r"several state dicts"),
    ],
)
def test_other_files_are_refused_with_their_content(contents: Any, words: str, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=words):
        make(plain()).load(tmp_path / "weights.pt")


def test_a_state_dict_under_any_one_key_is_loaded(tmp_path: Path, capsys: Any) -> None:
    learn, other = trained(), make(plain())
    torch.save({"net": learn.model.state_dict(), "accuracy": 0.9, "epoch": 3}, tmp_path / "weights.pt")
    other.load(tmp_path / "weights.pt")
    assert same(other, learn)


def test_a_file_in_the_old_format_of_torch_is_refused_with_how_to_load_it(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before version 1\.6: write it again, torch\.save"):
        make(plain()).load(tmp_path / "old.pt")


def test_weights_of_safetensors_are_loaded_also_with_the_names_of_a_wrapped_model(tmp_path: Path) -> None:
    learn, other = trained(), make(plain())
    state = {f"module.{name}": each for name, each in learn.model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    other.load(tmp_path / "weights.safetensors")
    assert same(other, learn)


def test_weights_of_safetensors_without_its_package_show_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(plain().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install .plainlearner\[safetensors\]"):
        make(plain()).load(tmp_path / "weights.safetensors")


PIECE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x03tQ"


@pytest.mark.parametrize(
    "state", [b"}X\x01\x00\x00\x00aK\x01s", b"(K\x63K\x63t", b"N}X\x07\x00\x00\x00n_bytesK\x63s\x86"]
)
@pytest.mark.parametrize(
    "target", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"N", b"ctorch\nFloatStorage\n", PIECE]
)
def test_attributes_are_restored_from_a_dict_only(target: bytes, state: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3)}, buffer)
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            is_pickle = name.endswith("data.pkl")
            new.writestr(name, b"\x80\x02" + target + state + b"b." if is_pickle else old.read(name))
    with pytest.raises(CheckpointError, match="its data are invalid"):
        make(plain()).load(path)


def test_our_checkpoint_without_its_seal_is_not_mistaken_for_a_file_of_torch(tmp_path: Path) -> None:
    path = trained().save(tmp_path / "file.pt")
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\nplainlearner checkpoint")])
    with pytest.raises(CheckpointError, match="a checkpoint whose end is missing"):
        make(plain()).load(path)


def test_a_file_of_another_learner_is_refused_with_how_to_load_its_weights(tmp_path: Path) -> None:
    path = make(plain()).save(tmp_path / "one.pt")
    other = make(plain())
    other.add_callbacks(EarlyStopping("train_loss"))
    with pytest.raises(ValueError, match=r"load\(path, only='model'\)\. Nothing was loaded") as caught:
        other.load(path)
    assert "allow=" not in str(caught.value)
