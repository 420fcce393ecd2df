"""The lines of a script for callbacks around the step: placement, precision, gradients, averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from callbacks.place.device import DevicePlacement
from callbacks.results.reductions import reduction_of
from callbacks.step.accumulation import GradientAccumulation
from callbacks.step.ema import EMA
from callbacks.step.gradient import GradientClip, ZeroGrad
from callbacks.step.precision import DTYPES, MixedPrecision
from learner.scripts.expressions import literal
from learner.scripts.result_forms import loss_weight
from learner.scripts.script import Script
from learner.scripts.source_text import block


def zero_grad(callback: ZeroGrad, script: Script) -> None:
    """`ZeroGrad`: each script calls `optimizer.zero_grad()` after an update."""


def placement(callback: DevicePlacement, script: Script) -> None:
    """`DevicePlacement`: the constant DEVICE, to which the model and each batch are moved."""
    if script.batch.unplaced and callback.device.type != "cpu":
        script.problem("DevicePlacement: a batch has parts that are not tensors, which a script cannot move")
    script.constants["DEVICE"] = literal(str(callback.device))
    if callback.prefetch and callback.device.type == "cuda":
        script.left_out.append("DevicePlacement(prefetch=True), which changes the speed alone")


def clip(callback: GradientClip, script: Script) -> None:
    """`GradientClip`: a line before the update."""
    if callback.max_norm is None:
        call = f"clip_grad_value_(model.parameters(), {literal(callback.max_value)})"
    else:
        kind = "" if callback.norm_type == 2 else f", norm_type={literal(callback.norm_type)}"
        call = f"clip_grad_norm_(model.parameters(), {literal(callback.max_norm)}{kind})"
    script.before_step.append(f"nn.utils.{call}")


def accumulation(callback: GradientAccumulation, script: Script) -> None:
    """`GradientAccumulation`: an update for several batches, in which each batch has its weight."""
    if callback.weight is not None or reduction_of(script.learn.loss_func).adds_up:
        script.problem("GradientAccumulation: weight=, and a loss that is a sum, cannot be converted")
    script.needs.add("batch_idx")
    weight = loss_weight(script)
    weight = f"{weight}.item()" if weight.endswith(".sum()") else weight
    script.setup.append("waiting, unit = 0.0, 1  # the weight of the batches that wait for their update")
    script.before_backward += [
        "# a batch with fewer targets counts less in the gradient of an update",
        f"weight = {weight}",
        "unit = weight if waiting == 0 else unit",
        "waiting += weight / unit",
    ]
    script.differentiated = "loss * (weight / unit)"
    full = f"(batch_idx + 1) % {callback.n_batches} == 0"
    if callback.n_samples is not None:
        script.setup.append("n_waiting = 0")
        script.before_backward.append(f"n_waiting += {script.batch.n_items}")
        script.after_update.append("n_waiting = 0")
        full = f"n_waiting >= {callback.n_samples}"
    script.after_update.append("waiting = 0.0")
    script.update_if = f"{full} or batch_idx + 1 == {script.length}"
    script.before_step += block("""
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(waiting)
    """)


def precision(callback: MixedPrecision, script: Script) -> None:
    """`MixedPrecision`: autocast for the forward pass and the loss; with fp16 a scaler for the gradients."""
    callbacks = script.learn.callbacks
    kind = callbacks[DevicePlacement].device.type if DevicePlacement in callbacks else "cpu"
    place = "DEVICE" if script.constants.get("DEVICE") == literal(kind) else literal(kind)
    script.autocast = f"torch.autocast({place}, {DTYPES[callback.precision]})"
    if callback.precision == "bf16":
        return
    default = f", init_scale={literal(callback.init_scale)}" if callback.init_scale != 2.0**16 else ""
    default += f", growth_interval={callback.growth_interval}" if callback.growth_interval != 2000 else ""
    script.setup.append(f"scaler = torch.amp.GradScaler({place}{default})")
    script.has_scaler = True
    script.before_step += ["scaler.unscale_(optimizer)", "scale = scaler.get_scale()"]
    script.step = ["scaler.step(optimizer)", "scaler.update()  # lowers the scale if a step was skipped"]
    script.step_if = "scaler.get_scale() >= scale"


def ema(callback: EMA, script: Script) -> None:
    """`EMA`: averages of the weights, which validation and the final model use."""
    weights, is_wide = averaged(callback, script.learn.model)
    copied = "each.detach().clone()" if is_wide else "each.detach().to(torch.float32, copy=True)"
    script.helpers["copy_into"] = COPY_INTO
    script.setup += [
        f"weights = {weights}",
        f"averages = [{copied} for each in weights]",
        "own_weights = [each.detach().clone() for each in weights]",
    ]
    decay = literal(callback.decay)
    if callback.warmup:
        script.setup.append("n_updates = 0")
        decay = f"min({decay}, (1 + n_updates) / (10 + n_updates))"
    script.epoch_start.append("copy_into(weights, own_weights)  # the model has the averages by now")
    script.after_step += [
        f"decay = {decay}",
        "with torch.no_grad():",
        "    for average, each in zip(averages, weights, strict=True):",
        f"        average.lerp_(each{'' if is_wide else '.to(average.dtype)'}, 1 - decay)",
        *(["n_updates += 1"] if callback.warmup else []),
    ]
    script.after_train += [
        "copy_into(own_weights, weights)",
        "copy_into(weights, averages)  # for validation, and at the end",
    ]
    if callback.at_end == "weights":
        script.after_fit.append("copy_into(weights, own_weights)")


def averaged(callback: EMA, model: nn.Module) -> tuple[str, bool]:
    """The list of what is averaged, and whether all of it has at least 32 bits."""
    tensors, source = list(model.parameters()), "[*model.parameters()]"
    if callback.buffers == "average":
        tensors, source = [*tensors, *model.buffers()], "[*model.parameters(), *model.buffers()]"
    floating = [each for each in tensors if each.is_floating_point()]
    if len(floating) < len(tensors):
        source = f"[each for each in {source} if each.is_floating_point()]"
    return source, all(each.dtype in WIDE for each in floating)


WIDE = (torch.float32, torch.float64)

COPY_INTO = '''
@torch.no_grad()
def copy_into(tensors: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    """Copy the values of other tensors of the same shapes."""
    for tensor, source in zip(tensors, sources, strict=True):
        tensor.copy_(source)
'''

FORMS: dict[Any, Any] = {
    ZeroGrad: zero_grad,
    DevicePlacement: placement,
    GradientClip: clip,
    GradientAccumulation: accumulation,
    MixedPrecision: precision,
    EMA: ema,
}
