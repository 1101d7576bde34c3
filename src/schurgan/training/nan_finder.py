"""Find where the first number that is not finite came from, by running a training step again under hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def find_nan(
    generator: nn.Module,
    discriminator: nn.Module,
    step: Callable[[], Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
) -> str | None:
    """Name the first tensor of a step that was not finite.

        find_nan(...)  # "generator.blocks.2.norm1 gave NaN first (its input was finite, at most 41.5)"

    The order: the networks' parameters, their buffers, the inputs (where one of these is not finite, the step is not
    run), input and output of each module in the order of the passes, the losses, then the gradients at the modules'
    outputs and of the parameters in the order of the backward pass. Slow: each check waits for the device.

    The networks are restored: parameters, buffers, gradients, modes and what requires a gradient, and so are the global
    random numbers. What else `step` changes (random generators, optimisers, running means) it must restore itself.

    Args:
        generator: G(z, labels).
        discriminator: D(images, labels).
        step: runs the step's forward and backward passes again, without updating the networks, and returns its losses
            by name in the order in which they were computed.
        inputs: tensors that go into it, by name: "real images".

    Returns:
        A sentence, None where all tensors are finite. An error that the step raises because of such a tensor (a solver
        that refuses NaN) is swallowed; a RuntimeError that comes while all is finite is named in the sentence.
    """
    networks = {"generator": generator, "discriminator": discriminator}
    for kind, named in (("parameter", nn.Module.named_parameters), ("buffer", nn.Module.named_buffers)):
        for name, network in networks.items():
            for path, tensor in named(network):
                if wrong := _wrong(tensor):
                    return f"the {kind} {name}.{path} held {wrong} before the step"
    for name, tensor in inputs.items():
        if wrong := _wrong(tensor):
            return f"{name} held {wrong} before the step{_rows(tensor)}"
    hooks = _Hooks()
    failed: RuntimeError | None = None
    losses: Mapping[str, Tensor] = {}
    with _restored(networks.values()), hooks.on(networks):
        try:
            losses = step()
        except RuntimeError as error:
            failed = error
    if hooks.forward:
        return hooks.forward
    for name, loss in losses.items():
        if wrong := _wrong(loss):
            return f"{name} was {wrong} first (what both networks gave was finite)"
    if hooks.backward:
        return hooks.backward
    if failed is not None:
        return f"the step failed with {type(failed).__name__} while all was finite: {str(failed).partition(chr(10))[0]}"
    return None


class _Hooks:
    """Hooks that note the first tensor that is not finite in the forward passes, and the first in the backward ones."""

    def __init__(self) -> None:
        self.forward: str | None = None
        self.backward: str | None = None

    @contextlib.contextmanager
    def on(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        handles: list[Any] = []
        try:
            for root, network in networks.items():
                for path, module in network.named_modules():
                    name = f"{root}.{path}" if path else f"the {root}"
                    check_input, check_output = partial(self._check_input, name), partial(self._check_output, name)
                    handles.append(module.register_forward_pre_hook(check_input, with_kwargs=True))
                    handles.append(module.register_forward_hook(check_output, with_kwargs=True))
                for path, parameter in network.named_parameters():
                    # A hook needs a parameter that learns; the pass of one network may hold the other's still.
                    learns = parameter.requires_grad
                    parameter.requires_grad_(True)
                    handles.append(parameter.register_hook(partial(self._check_gradient, f"of {root}.{path}")))
                    parameter.requires_grad_(learns)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_input(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.forward is None and (wrong := _worst([args, kwargs])):
            self.forward = f"{name} was given {wrong[0]} first (all before it was finite){_rows(wrong[1])}"

    def _check_output(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.forward is None and (wrong := _worst(output)):
            self.forward = f"{name} gave {wrong[0]} first ({_finite_input([args, kwargs])}){_rows(wrong[1])}"
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(partial(self._check_gradient, f"at the output of {name}"))

    def _check_gradient(self, where: str, gradient: Tensor) -> None:
        if self.backward is None and (wrong := _wrong(gradient)):
            self.backward = f"the gradient {where} was {wrong} first (the losses were finite)"


@contextlib.contextmanager
def _restored(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Networks and global random numbers as they were, whatever happens inside."""
    modules = [module for network in networks for module in network.modules()]
    modes = [module.training for module in modules]
    parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    gradients = [(parameter.grad, parameter.requires_grad) for parameter in parameters]
    tensors = [*parameters, *(buffer for module in modules for buffer in module.buffers(recurse=False))]
    values = [tensor.detach().clone() for tensor in tensors]
    cuda = sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        try:
            for parameter in parameters:
                parameter.grad = None  # not to be added to
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
            for parameter, (gradient, learns) in zip(parameters, gradients, strict=True):
                parameter.requires_grad_(learns)
                parameter.grad = gradient
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _wrong(tensor: Tensor) -> str | None:
    """Return "NaN", "inf" where there is no NaN, None for a finite tensor."""
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return None
    return "NaN" if bool(tensor.isnan().any()) else "inf"


def _worst(value: Any) -> tuple[str, Tensor] | None:
    return next(((wrong, tensor) for tensor in _tensors(value) if (wrong := _wrong(tensor))), None)


def _finite_input(value: Any) -> str:
    largest = [tensor.detach().abs().amax().item() for tensor in _tensors(value) if tensor.numel()]
    return f"its input was finite, at most {max(largest):.3g}" if largest else "all before it was finite"


def _rows(tensor: Tensor) -> str:
    """How many rows of a batch are concerned: one bad recording, or all of them."""
    if tensor.ndim < 2:
        return ""
    bad = (~tensor.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    return f", in {len(bad)} of {len(tensor)} rows, first in row {bad[0]}"
