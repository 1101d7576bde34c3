"""What an architecture costs: parameters, arithmetic and memory of a training step, on tensors that hold no numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from schurgan.core.isolation import isolated
from schurgan.networks.architectures import ARCHITECTURES, Architecture, check_sizes
from schurgan.networks.discriminator import Discriminator
from schurgan.networks.generator import Generator
from schurgan.networks.spectral import apply_spectral_norm, frozen_power_iterations


@dataclass(frozen=True)
class Costs:
    """Of one step: D on a batch of real and a batch of generated images, then G on a batch, in float32."""

    generator: int  # parameters of G
    discriminator: int
    flops: int
    """Multiplications and additions of matrix products, convolutions and attention, forward and backward. Norms,
    activations and optimisers are a few per cent beside them and are not counted."""
    flops_d: int  # those of D's phase, generating its batch included
    state: int
    """Bytes of both networks' parameters, buffers, gradients and Adam moments, and of the averaged generator."""
    activations: int
    """Bytes that the larger of the two phases keeps for its backward pass, each storage once."""

    @property
    def memory(self) -> int:
        """Bytes of all that a step holds at once. A peak is higher by what single operations need while they run."""
        return self.state + self.activations


@isolated
def step_costs(
    architecture: Architecture,
    *,
    width: int | None = None,
    classes: int = 10,
    channels: int = 3,
    batch_size: int = 32,
    spectral_norm_g: bool = False,
    spectral_norm_d: bool = True,
) -> Costs:
    """Costs of a training step on `batch_size` real and generated images each; takes a fraction of a second."""
    check_sizes(batch_size=batch_size)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        generator = Generator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        discriminator = Discriminator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        if spectral_norm_g:
            apply_spectral_norm(generator, generator.embeddings())
        if spectral_norm_d:
            apply_spectral_norm(discriminator)
    return network_costs(generator, discriminator, batch_size)


def network_costs(generator: nn.Module, discriminator: nn.Module, batch_size: int) -> Costs:
    """As `step_costs`, of networks on the meta device as `training.build` makes them."""
    networks = (generator, discriminator)
    with (
        torch.device("meta"),
        frozen_power_iterations(generator),  # they take most of the time here and change no size
        frozen_power_iterations(discriminator),
        _FusedAttention(),
        FlopCounterMode(display=False) as counter,
    ):
        z = torch.empty(batch_size, cast(int, generator.latent_dim))
        labels = torch.zeros(batch_size, dtype=torch.int64)
        with torch.no_grad():
            fake = generator(z, labels)
        of_discriminator, of_generator = _Kept(networks), _Kept(networks)
        with of_discriminator:
            loss = discriminator(torch.cat([torch.empty_like(fake), fake]), labels.repeat(2)).sum()
        loss.backward()
        flops_d = counter.get_total_flops()
        discriminator.requires_grad_(False)
        with of_generator:
            loss = discriminator(generator(z, labels), labels).sum()
        loss.backward()
        discriminator.requires_grad_(True)
    trained = [parameter for network in networks for parameter in network.parameters()]
    return Costs(
        generator=sum(parameter.numel() for parameter in generator.parameters()),
        discriminator=sum(parameter.numel() for parameter in discriminator.parameters()),
        flops=counter.get_total_flops(),
        flops_d=flops_d,
        state=bytes_of(tensors_of(networks)) + 3 * bytes_of(trained) + bytes_of(tensors_of([generator])),
        activations=max(of_discriminator.size, of_generator.size),
    )


def cost_table(
    *, width: int | None = None, classes: int = 10, channels: int = 3, batch_size: int = 32
) -> Iterator[str]:
    """Lines of a table of `ARCHITECTURES` and their costs; a width of None is each architecture's own."""
    yield "architectures (--model.architecture): parameters of both networks, and of one step in float32,"
    yield f"batch {batch_size}, channels {channels}, classes {classes}, D spectrally normalised"
    space = max(map(len, ARCHITECTURES))
    heads = f"{'pixels':>8} {'width':>5} {'generator':>13} {'discriminator':>13} {'GiB':>7} {'GFLOP':>9}"
    yield f"{'architecture':<{space}} {heads}"
    for name, architecture in ARCHITECTURES.items():
        costs = step_costs(architecture, width=width, classes=classes, channels=channels, batch_size=batch_size)
        pixels = f"{architecture.size[0]}×{architecture.size[1]}"
        yield (
            f"{name:<{space}} {pixels:>8} {width or architecture.width:>5} {costs.generator:>13,} "
            f"{costs.discriminator:>13,} {costs.memory / 2**30:>7.2f} {costs.flops / 1e9:>9,.1f}"
        )


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Within it, storages that graphs keep beside those of the networks are recorded."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__(self.add, lambda tensor: tensor)
        self.own = {storage_address(tensor) for tensor in tensors_of(networks)}
        self.found: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: Tensor) -> Tensor:
        if storage_address(tensor) not in self.own:
            self.found[storage_address(tensor)] = tensor.untyped_storage()  # held, or another could get its address
        return tensor

    @property
    def size(self) -> int:
        return sum(storage.nbytes() for storage in self.found.values())


def storage_address(tensor: Tensor) -> int:
    """Return an address that views of the same memory share; tensors without memory have one too."""
    address: int = tensor.untyped_storage()._cdata
    return address


def tensors_of(networks: Iterable[nn.Module]) -> list[Tensor]:
    """Return all parameters and buffers."""
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the memory of tensors, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _FusedAttention(TorchFunctionMode):
    """Without a device there is no fused kernel to choose, and attention would hold its map: here it does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Products and kept tensors of a fused kernel: q, k, v, the result and a normaliser a row; the map is made anew."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = (query @ key.mT) @ value
        ctx.save_for_backward(query, key, value, seen, seen[..., 0].clone())
        return seen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        weights = query @ key.mT
        of_weights = gradient @ value.mT
        return of_weights @ key, of_weights.mT @ query, weights.mT @ gradient
