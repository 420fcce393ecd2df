"""The formats of an exported model: each writes a file, and loads it again to run it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learner.files.checkpoint_file import save_to
from learner.files.safetensors_file import read_safetensors, write_safetensors
from learner.inference.call import Call, plain
from learner.inference.tracing import quiet, traced, unsupported

Run = Callable[[Call], Any]
Writer = Callable[[nn.Module, Call, Path], tuple[Run, str]]


def writer_of(path: Path) -> Writer:
    """The writer of a format, by the suffix of the file."""
    if path.suffix not in WRITERS:
        raise ValueError(
            f"export({path.name!r}): the suffix must be '.pt2' (torch.export), '.onnx', '.safetensors' or "
            "'.pt' (weights)."
        )
    write, extra, packages = WRITERS[path.suffix]
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(
                f"export({path.name!r}) needs a package that is missing, {package}: pip install "
                f'"plainlearner[{extra}]".'
            ) from error
    return write


# The model


@contextmanager
def plain_model(model: nn.Module, call: Call) -> Iterator[nn.Module]:
    """A copy of the model on the CPU, in evaluation mode, neither compiled nor wrapped, with plain output.

    A model that cannot be copied is used itself, where it is.
    """
    model = unwrapped(model)
    modes = [(each, each.training) for each in model.modules()]
    try:
        used = copy.deepcopy(model).cpu().requires_grad_(False)  # because outputs are used without gradients
        for each in used.modules():
            each._compiled_call_impl = None  # type: ignore[reportAttributeAccessIssue]
            for name, child in list(each.named_children()):
                setattr(each, name, unwrapped(child))
    except (TypeError, RuntimeError, AttributeError):  # it holds something that cannot be copied
        used = model
    own = vars(used).get("forward")
    used.forward = with_plain_output(used.forward, call)
    try:
        yield used.eval()
    finally:
        vars(used).pop("forward")
        vars(used).update({} if own is None else {"forward": own})
        for each, mode in modes:
            each.training = mode


def unwrapped(model: Any) -> nn.Module:
    """The module within what `torch.compile`, `DataParallel` or `DistributedDataParallel` returns."""
    if hasattr(model, "_orig_mod"):
        return unwrapped(model._orig_mod)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    return model


def with_plain_output(forward: Callable[..., Any], call: Call) -> Callable[..., Any]:
    """The forward method with an output that needs no other package to be loaded."""

    def forward_plain(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    signature = inspect.signature(forward)
    if any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in call.kwargs]
        signature = inspect.Signature(named) if named else signature  # torch.export takes no **kwargs
    forward_plain.__signature__ = signature  # type: ignore[reportFunctionMemberAccess]
    return forward_plain


def drop_labels(model: nn.Module, inputs: Any) -> None:
    """Remove the labels that a Hugging Face model takes in training and does not need."""
    parameter = inspect.signature(unwrapped(model).forward).parameters.get("labels")
    if isinstance(inputs, dict) and parameter is not None and parameter.default is None:
        inputs.pop("labels", None)


# The formats


def write_program(model: nn.Module, call: Call, file: Path) -> tuple[Run, str]:
    """A program of `torch.export`."""
    program = traced(model, call)
    try:
        with quiet():
            with file.open("wb") as opened:
                save_to(opened, lambda counted: torch.export.save(program, counted))
            loaded = torch.export.load(file).module()
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"export: torch.export traced the model, but cannot store the program: {error} Let forward "
            "return tensors, in tuples, lists and dicts."
        ) from error
    words = f"a program of torch.export, {size_of(file)}, for inputs {call.words}"
    return lambda call: loaded(*call.args, **call.kwargs), words


def write_onnx(model: nn.Module, call: Call, file: Path) -> tuple[Run, str]:
    """An ONNX file, run with ONNX Runtime."""
    from torch import onnx  # slow

    program = traced(model, call)
    check_tensors(program)
    try:
        with quiet():
            made = onnx.export(program, dynamo=True, verbose=False)
            assert made is not None
            made.rename_axes(item_names(made, call))
            made.save(file)  # with a second file if the weights have more than 2 GB
    except onnx.OnnxExporterError as error:
        raise ValueError(unsupported(error, program)) from error
    session = session_of(file)

    def run(call: Call) -> list[Tensor]:
        feeds = {one.name: each.numpy() for one, each in zip(session.get_inputs(), call.tensors, strict=True)}
        return [torch.as_tensor(each) for each in session.run(None, feeds)]

    inputs = ", ".join(f"{each.name} {each.shape}" for each in session.get_inputs())
    return run, f"an ONNX file, {size_of(file)}, with the inputs {inputs}"


def check_tensors(program: torch.export.ExportedProgram) -> None:
    """Refuse a program with other outputs than tensors and None, which the ONNX exporter cannot convert."""
    values = [getattr(each.arg, "value", None) for each in program.graph_signature.output_specs]
    if found := [value for value in values if value is not None]:
        raise ValueError(
            f"export: the model's output contains {found[0]!r} ({type(found[0]).__name__}), and an ONNX file "
            "returns only tensors. Leave it out of the output, return it as a tensor, or export a .pt2."
        )


def session_of(file: Path) -> Any:
    """The file, loaded by ONNX Runtime."""
    import onnxruntime  # slow, an extra

    try:
        return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(
            f"export: ONNX Runtime cannot load the model: {str(error).split(' : ')[-1]}. Its CPU kernels "
            "lack some operators in bfloat16 and float16: export a copy in float32, or a .pt2."
        ) from error


def item_names(made: Any, call: Call) -> dict[Any, str]:
    """The symbols of the dimensions that count the items, which become `batch`."""
    pairs = zip(made.model.graph.inputs, call.tensors, strict=True)
    dims = [one.shape[dim] for one, each in pairs if (dim := call.item_dimension(each)) is not None]
    return {dim: "batch" for dim in dims if not isinstance(dim, int)}


def write_weights(model: nn.Module, call: Call, file: Path) -> tuple[Run, str]:
    """The state dict, each tensor by itself, so that `load_state_dict` takes the file as it is."""
    state = {name: copy.deepcopy(each) for name, each in model.state_dict().items()}
    if file.suffix == ".pt":
        with file.open("wb") as opened:
            save_to(opened, lambda counted: torch.save(state, counted))
        state = torch.load(file, weights_only=True)
    else:
        extra = [name for name, each in state.items() if not isinstance(each, Tensor)]
        if extra:
            raise ValueError(
                f"export: a .safetensors file can contain only tensors, but {extra[0]!r} is a "
                f"{type(state[extra[0]]).__name__}: export to a .pt file."
            )
        write_safetensors(file, {name: each.contiguous() for name, each in state.items()})
        state = read_safetensors(file)
    weights = {name: each for name, each in state.items() if isinstance(each, Tensor)}
    n_numbers = sum(each.numel() for each in weights.values())

    def run(call: Call) -> Any:
        return torch.func.functional_call(model, weights, call.args, call.kwargs, tie_weights=False)

    return run, f"a state dict of {n_numbers:,} numbers, {size_of(file)}"


WRITERS: dict[str, tuple[Writer, str, tuple[str, ...]]] = {
    ".pt2": (write_program, "", ()),
    ".onnx": (write_onnx, "onnx", ("onnx", "onnxscript", "onnxruntime")),
    ".safetensors": (write_weights, "safetensors", ("safetensors",)),
    ".pt": (write_weights, "", ()),
}


def size_of(file: Path) -> str:
    """The size of a file, as `1.2 MB`."""
    n_bytes = file.stat().st_size
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"
