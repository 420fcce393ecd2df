"""`fully_shard` on the model of a learner: each process holds a part of every parameter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from callbacks.core.learner_protocol import LearnerProtocol
from callbacks.core.modules import modules_beside
from callbacks.core.registry import describe
from callbacks.distributed.data_parallel import N_NUMBERS, is_trained, tensor_of, trained_in, zero_of
from callbacks.model import shards
from callbacks.model.named import find_layers
from callbacks.optim.optimizers import members_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WHOLE = "it needs whole matrices or vectors, but each process has only a part"
NO_OPTIMIZERS = {"LBFGS": WHOLE, "Adafactor": WHOLE, "Muon": WHOLE}
NO_CALLBACKS = {
    "WholeStep": "it compiles a step of plain tensors",
    "LeanStep": "it updates plain tensors",
    "Compile": "it has not been tested with sharded layers",
    "GradientFlow": "torch cannot compute the maximum norm of sharded gradients",
    "WeightNoise": "each process would draw different noise",
    "PlotSnapshots": "only the first process would predict, but it needs the weights of the others",
}


class Sharded:
    """The parameters of the model in parts, one in each process; a layer is gathered when it runs.

    The learner's model stays the same object, with its own names. Its parameters become `DTensor`s, also
    those in the optimizer, which keeps its settings and state.

    Args:
        learn: the learner.
        mesh: a device mesh; by default one dimension with all processes.
        precision: `"bf16"`, `"fp16"`, or a `MixedPrecisionPolicy`.
        offload: keep parameters in main memory.
        layers: names or classes of the layers that are gathered one at a time.
        settings: other arguments of `fully_shard`.

    Raises:
        ValueError: something cannot be sharded, or a trained parameter is not.
    """

    #: Unsynchronized gradients would be whole ones, as large as the model, out of reach of `zero_grad`.
    syncs_each_batch = True

    def __init__(
        self,
        learn: LearnerProtocol,
        *,
        mesh: Any,
        precision: Any,
        offload: bool,
        layers: Any,
        settings: dict[str, Any],
    ):
        check(learn)
        self.model: Any = learn.model
        if hasattr(self.model, "set_requires_gradient_sync"):  # an earlier fit or the user has sharded it
            self.end()
        else:
            settings = {**settings, **arguments_of(mesh, precision, offload, learn.device)}
            shard(learn, layers, settings, is_named=isinstance(precision, str))
        check_sharded(self.model)
        self.model.set_requires_gradient_sync(True)
        self.model.set_reshard_after_forward(False, recurse=False)  # its own weights are needed again at once
        self.trained = trained_in(self.model)
        self.size, self.device = dist.get_world_size(), learn.device
        self.n_divided = self.size  # what gradients are divided by
        self._note = torch.zeros(N_NUMBERS, dtype=torch.float32, device=self.device)
        self._work: Any = None

    def is_current(self, learn: LearnerProtocol) -> bool:
        """Is this still the learner's model, with the same trained parameters?"""
        return self.model is learn.model and self.trained == trained_in(self.model)

    def send(self, learn: LearnerProtocol, numbers: list[float | Tensor]) -> None:
        """Send numbers while the backward pass runs."""
        self._note = tensor_of(numbers, self._note)
        self._work = dist.all_reduce(self._note, async_op=True)

    def received(self) -> Tensor:
        """The numbers, added over all processes."""
        self._work.wait()
        return self._note

    def release_weights(self) -> None:
        """Release whole weights after a forward pass without backward: `parameters()` has the parts again."""
        self.model.reshard()

    def end(self) -> None:
        """End the fit: from now on each forward pass releases whole weights itself."""
        self.model.set_reshard_after_forward(True, recurse=False)
        for each in self.model.modules():
            if hasattr(each, "reshard"):
                each.reshard()

    def zero_loss(self, learn: LearnerProtocol) -> Tensor:
        """A loss whose gradient is 0, through the layers of the last forward pass."""
        return zero_of(learn)

    def end_pass(self) -> None:
        """Copy the buffers of the first rank, as running means, to all others."""
        self.release_weights()
        check_sharded(self.model)  # a layer may have been replaced
        for buffer in self.model.buffers():
            dist.broadcast(buffer, src=0)


def check(learn: LearnerProtocol) -> None:
    """Refuse what cannot work on sharded parameters.

    Raises:
        ValueError: with the reason.
    """
    start = "Distributed('fsdp') cannot train with"
    for each in members_of(learn.optimizer):
        name = type(each).__name__
        if name in NO_OPTIMIZERS:
            raise ValueError(f"{start} {name}: {NO_OPTIMIZERS[name]}. Use AdamW, or Distributed('ddp').")
    for callback in learn.callbacks:
        reasons = [
            NO_CALLBACKS[kind.__name__] for kind in type(callback).__mro__ if kind.__name__ in NO_CALLBACKS
        ]
        if callback.scales_gradients:
            reasons.append("each process would scale by its own part; use Distributed(precision='bf16')")
        if reasons:
            raise ValueError(f"{start} {describe(callback)}: {reasons[0]}. Leave it out, or use 'ddp'.")
    for place, module in modules_beside(learn).items():
        if is_trained(module):
            raise ValueError(f"{start} a trained module outside the model ({place}): use Distributed('ddp').")


def check_sharded(model: nn.Module) -> None:
    """Refuse trained parameters that are not sharded, whose gradients nobody would average.

    Raises:
        ValueError: with their names.
    """
    named = model.named_parameters()
    whole = [name for name, each in named if each.requires_grad and not hasattr(each, "device_mesh")]
    if whole:
        raise ValueError(
            f"Distributed('fsdp'): the model is sharded, but not its trained {', '.join(whole[:8])}, so each "
            "process would train its own. Replace layers before the first fit, or freeze these parameters "
            "with requires_grad_(False), as those in ignored_params."
        )


def arguments_of(mesh: Any, precision: Any, offload: bool, device: torch.device) -> dict[str, Any]:
    """The arguments of `fully_shard` for each layer."""
    from torch.distributed import device_mesh, fsdp  # takes seconds to import

    found = {"mesh": mesh or device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))}
    if isinstance(precision, str):
        dtype = DTYPES[precision]
        precision = fsdp.MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    if precision is not None:
        found["mp_policy"] = precision
    if offload:
        found["offload_policy"] = fsdp.CPUOffloadPolicy(pin_memory=device.type == "cuda")
    return found


def shard(learn: LearnerProtocol, layers: Any, settings: dict[str, Any], *, is_named: bool) -> None:
    """Start all processes with the weights of the first, and shard them layer by layer."""
    from torch.distributed.fsdp import fully_shard

    model = learn.model
    with torch.no_grad():
        for each in (*model.parameters(), *model.buffers()):
            dist.broadcast(each, src=0)
    before = dict(model.named_parameters())
    for each in layers_of(model, layers):
        fully_shard(each, **settings)
    if is_named:  # what leaves the model is float32, as parameters and gradients are
        settings = {**settings, "mp_policy": replace(settings["mp_policy"], output_dtype=torch.float32)}
    fully_shard(model, **settings)
    after = dict(model.named_parameters())
    move_optimizer(learn.optimizer, {id(each): after[name] for name, each in before.items()})


def layers_of(model: nn.Module, wanted: Any) -> list[nn.Module]:
    """The layers that are gathered one at a time, inner ones first; without those that share weights.

    By default they are the repeated ones: those of one class in a list or sequence of modules.
    """
    if wanted is None:
        found = repeated_in(model)
    else:
        wanted = [wanted] if isinstance(wanted, (str, type)) else wanted
        names = [each if isinstance(each, str) else each.__name__ for each in wanted]
        found = list(find_layers(model, names, "Distributed").values())[::-1]
    counts: dict[int, int] = {}
    for module in {id(each): each for each in model.modules()}.values():
        for each in module._parameters.values():
            counts[id(each)] = counts.get(id(each), 0) + 1
    tied = {each for each, count in counts.items() if count > 1}
    return [each for each in found if each is not model and not tied & set(map(id, each.parameters()))]


def repeated_in(module: nn.Module) -> list[nn.Module]:
    """The outermost modules with parameters that a list or sequence has several of."""
    found: list[nn.Module] = []
    for each in module.children():
        same = [other for other in module.children() if type(other) is type(each)]
        is_repeated = isinstance(module, (nn.ModuleList, nn.Sequential)) and len(same) > 1
        has_forward = not isinstance(each, (nn.ModuleList, nn.ModuleDict))
        if is_repeated and has_forward and any(True for _ in each.parameters()):
            found.append(each)
        else:
            found += repeated_in(each)
    return found


def move_optimizer(optimizer: Any, new: dict[int, nn.Parameter]) -> None:
    """Let an optimizer train other parameters, with the same settings, groups and state.

    Args:
        optimizer: of the learner.
        new: the new parameters, by the id of the former one.
    """
    for member in members_of(optimizer):
        for group in member.param_groups:
            group["params"][:] = [new.get(id(each), each) for each in group["params"]]
        state = dict(member.state)
        member.state.clear()
        for former, values in state.items():
            parameter = new.get(id(former), former)
            member.state[parameter] = {
                key: shards.like(each, parameter) if isinstance(each, Tensor) else each
                for key, each in values.items()
            }
