"""The training or evaluation mode of the model and the loss in a pass, and of each module outside of it."""

from __future__ import annotations

from weakref import WeakValueDictionary

from torch import nn

from callbacks.core.modules import loss_module
from learner.state.protocol import FullLearner

Modes = list[tuple[nn.Module, bool]]

# Modules that were in training mode and that a fit has left in evaluation mode, by identity. They are not
# stored on the learner, because a part of a trained model may become a part of another learner's model.
_left: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()


def modes_of(learn: FullLearner) -> Modes:
    """Each module of the model and of the loss, and whether it is in training mode."""
    loss = loss_module(learn.loss_func)
    found = [learn.model] if loss is None else [learn.model, loss]
    seen = set(found)
    for module in found:  # grows in the loop; `Module.modules` takes several times as long
        for each in module._modules.values():
            if each is not None and each not in seen:
                seen.add(each)
                found.append(each)
    return [(module, module.training) for module in found]


def set_modes(modes: Modes) -> None:
    """Restore what `modes_of` returned.

    A class may override `train`, as a layer for LoRA does that merges its weights for evaluation. Then it is
    called, as at the start of the pass; each module's own mode is set after that.
    """
    for module, mode in modes:
        if module.training is not mode and type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes:
        if module.training is not mode:  # assigning to a module takes ten times as long
            module.training = mode


def enter_mode(learn: FullLearner, *, training: bool) -> None:
    """Put the model into the mode of a pass, and a loss that is a module into evaluation mode for validation.

    In training a loss keeps its own modes: a network that compares features stays in evaluation mode.
    """
    if learn.model.training is not training:
        learn.model.train() if training else learn.model.eval()
    loss = None if training else loss_module(learn.loss_func)
    if loss is not None:
        loss.eval()


def leave_in_evaluation_mode(model: nn.Module) -> None:
    """Put a trained model into evaluation mode, and note the modules that were in training mode."""
    for module in model.modules():
        if module.training:
            module.training = False
            _left[id(module)] = module


def resume_training_modes(model: nn.Module) -> bool:
    """Put the modules into training mode again that the last fit has left in evaluation mode.

    If the user has called `model.train()` since, the modes stay unchanged.

    Returns:
        Whether they were restored.
    """
    is_set_by_user = model.training and id(model) in _left
    found = [module for module in model.modules() if _left.pop(id(module), None) is not None]
    for module in () if is_set_by_user else found:
        module.training = True
    return bool(found) and not is_set_by_user


def names_left(model: nn.Module) -> list[str]:
    """Names of the modules that the last fit left in evaluation mode, for a copy of the model."""
    return [name for name, module in model.named_modules() if id(module) in _left]


def remember_left(model: nn.Module, names: list[str]) -> None:
    """Note in a copy of a model what `names_left` returned."""
    for name in names:
        module = model.get_submodule(name)
        _left[id(module)] = module
