"""See what modules give, and what gradients come back to them: hooks that remove themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from callbacks.place.device import tensors_in

See = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class Hooks:
    """Call a function each time that one of some modules runs, or that a gradient comes back to it.

        with Hooks(model.encoder, lambda module, inputs, output: shapes.append(output.shape)):
            model(inputs)

    The hooks are there at once. They go at the end of the `with` block, by `remove()`, or when the object is
    no longer held. What the function returns is passed over, so it changes nothing by mistake.

    A model that `torch.compile` has compiled before calls no hooks that were put on later.

    Args:
        modules: one module or several; of each its own output, not that of its parts.
        function: `function(module, inputs, output)`. `inputs` is a tuple, of keyword arguments their values.
            With `of="backward"` the third is the gradient of what `backward` was called on, with respect to
            the module's output and of its shape; where there are several outputs, it is called for each.
        of: `"forward"` or `"backward"`.

    Raises:
        TypeError: `modules` are none, or `function` cannot be called.
        ValueError: no such `of`.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        function: See,
        *,
        of: Literal["forward", "backward"] = "forward",
    ):
        found = [modules] if isinstance(modules, nn.Module) else list(modules)
        check(found, function, of)
        hook = forward_hook(function) if of == "forward" else backward_hook(function)
        self._handles = [module.register_forward_hook(hook, with_kwargs=True) for module in found]

    def remove(self) -> None:
        """Take the hooks away; bears being called twice."""
        handles: list[RemovableHandle] = vars(self).pop("_handles", [])  # not there where it was refused
        for handle in handles:
            handle.remove()

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __del__(self) -> None:
        self.remove()


def forward_hook(function: See) -> Callable[..., None]:
    """A hook of torch's that calls the function."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        function(module, (*args, *kwargs.values()), output)

    return hook


def backward_hook(function: See) -> Callable[..., None]:
    """A forward hook that has the output tell its gradient.

    torch's own backward hooks of modules refuse outputs that are changed in place, as by an inplace ReLU.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = (*args, *kwargs.values())

        def see(gradient: Tensor) -> None:
            function(module, inputs, gradient)

        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(see)

    return hook


def check(modules: list[Any], function: Any, of: Any) -> None:
    """Refuse what cannot be hooked."""
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"Hooks: {module!r} is no module: pass modules, as model.layers.")
    if not callable(function):
        raise TypeError(f"Hooks(function={function!r}): pass a function of (module, inputs, output).")
    if of not in ("forward", "backward"):
        raise ValueError(f"Hooks(of={of!r}): there are 'forward' and 'backward'.")
