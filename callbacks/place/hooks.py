"""Hooks that see the outputs of modules, or their gradients, and remove themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from callbacks.core.missing_names import suggest_arguments
from callbacks.place.device import tensors_in

See = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class Hooks:
    """Call a function each time one of some modules runs, or receives a gradient.

        with Hooks(model.encoder, lambda module, inputs, output: shapes.append(output.shape)):
            model(inputs)

    The hooks are active at once. They are removed at the end of the `with` block, by `remove()`, or when the
    object is freed. The return value of the function is ignored, so it changes nothing by mistake.

    If `torch.compile` has compiled a model before, hooks that are added later are not called.

    Args:
        modules: one module or several.
        function: `function(module, inputs, output)`. `inputs` is a tuple that includes the values of keyword
            arguments. With `of="backward"` the third argument is the gradient with respect to the module's
            output, with its shape; if there are several outputs, the function is called for each.
        of: `"forward"` or `"backward"`.

    Raises:
        TypeError: `modules` are not modules, or `function` cannot be called.
        ValueError: `of` has another value.
    """

    @suggest_arguments
    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        function: See,
        *,
        of: Literal["forward", "backward"] = "forward",
    ):
        found = [modules] if isinstance(modules, nn.Module) else list(modules)
        check(found, function)
        hook = forward_hook(function) if of == "forward" else backward_hook(function)
        self._handles = [module.register_forward_hook(hook, with_kwargs=True) for module in found]

    def remove(self) -> None:
        """Remove the hooks; idempotent."""
        handles: list[RemovableHandle] = vars(self).pop(
            "_handles", []
        )  # missing if the constructor raised an error
        for handle in handles:
            handle.remove()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __del__(self) -> None:
        self.remove()


def forward_hook(function: See) -> Callable[..., None]:
    """A torch hook that calls the function."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        function(module, (*args, *kwargs.values()), output)

    return hook


def backward_hook(function: See) -> Callable[..., None]:
    """A forward hook that registers a hook for the gradient of the output.

    torch's backward hooks of modules do not work with outputs that are changed in place, as by an inplace
    ReLU.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = (*args, *kwargs.values())

        def see(gradient: Tensor) -> None:
            function(module, inputs, gradient)

        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(see)

    return hook


def check(modules: list[Any], function: Any) -> None:
    """Raise an error for what cannot be hooked."""
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"Hooks: {module!r} is not a module: pass modules, such as model.layers.")
    if not callable(function):
        raise TypeError(f"Hooks(function={function!r}): pass a function of (module, inputs, output).")
