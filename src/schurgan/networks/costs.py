"""What an architecture costs: parameters, arithmetic and memory of a training step, on tensors that hold no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from schurgan.networks.architectures import ARCHITECTURES, Architecture, check_sizes
from schurgan.networks.discriminator import Discriminator
from schurgan.networks.generator import Generator
from schurgan.networks.spectral import SpectralNorm, constrain_layers


@dataclass(frozen=True)
class Costs:
    """Of one step: D on a batch of real and a batch of generated images, then G on a batch, in float32."""

    generator: int
    """Parameters of G."""
    discriminator: int
    """Parameters of D."""
    flops: int
    """Floating-point operations of matrix products, convolutions and attention, a multiplication and an addition each;
    forward and backward. Norms, activations and optimisers are a few per cent beside them and are not counted."""
    weights: int
    """Bytes of parameters and buffers of both networks."""
    gradients: int
    """Bytes of both networks' gradients."""
    moments: int
    """Bytes of Adam's two moments of every parameter."""
    average: int
    """Bytes of the averaged generator."""
    activations: int
    """Bytes that the larger of the two phases keeps for its backward pass, each storage once."""

    @property
    def memory(self) -> int:
        """Bytes of all that a step holds at once. A peak is higher by what single operations need while they run."""
        return self.weights + self.gradients + self.moments + self.average + self.activations


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
    """Costs of a step of training the networks of `architecture`; a fraction of a second, whatever their size.

    batch_size   images, real and generated each. Raises ValueError for sizes below 1.
    """
    check_sizes(batch_size=batch_size)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        generator = Generator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        discriminator = Discriminator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        if spectral_norm_g:
            _normalise(generator, generator.embeddings())
        if spectral_norm_d:
            _normalise(discriminator, ())
        z = torch.empty(batch_size, generator.latent_dim)
        labels = torch.zeros(batch_size, dtype=torch.int64)
        images = torch.empty(batch_size, channels, *architecture.size)
    networks = (generator, discriminator)
    with _FusedAttention(), FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            fake = generator(z, labels)
        with _kept(networks) as of_discriminator:
            loss = discriminator(torch.cat([images, fake]), labels.repeat(2)).sum()
        loss.backward()
        discriminator.requires_grad_(False)
        with _kept(networks) as of_generator:
            loss = discriminator(generator(z, labels), labels).sum()
        loss.backward()
    trained = [parameter for network in networks for parameter in network.parameters()]
    return Costs(
        generator=sum(parameter.numel() for parameter in generator.parameters()),
        discriminator=sum(parameter.numel() for parameter in discriminator.parameters()),
        flops=counter.get_total_flops(),
        weights=_size(_tensors(networks)),
        gradients=_size(trained),
        moments=2 * _size(trained),
        average=_size(_tensors([generator])),
        activations=max(of_discriminator.size, of_generator.size),
    )


@dataclass(frozen=True)
class Peak:
    """Bytes that a step needs at its worst moment, by what they are for."""

    held: int
    """Weights, gradients, Adam's moments and the averaged generator: whatever the batch."""
    batch: int
    """Tensors of the size of the whole batch of images."""
    part: int
    """The most that one part of a batch needs while it is computed, forward or backward."""

    @property
    def total(self) -> int:
        """An allocator needs some per cent more: it leaves gaps, and convolutions may ask for room to work in."""
        return self.held + self.batch + self.part


def step_peak(
    architecture: Architecture,
    *,
    width: int | None = None,
    classes: int = 10,
    channels: int = 3,
    batch_size: int = 32,
    gradient_accumulation_steps: int = 1,
    d_steps: int = 1,
    half: bool = False,
) -> Peak:
    """Peak of a step whose batches come in `gradient_accumulation_steps` parts, D spectrally normalised; some seconds.

    Unlike `Costs.memory` it counts what is alive at each operation, those of the backward passes too. half: autocast to
    a format of 16 bits. Attention is a fused kernel, whose map is never whole. Not counted: the departures of DDFN.
    Raises ValueError for sizes below 1 and a batch that the parts do not divide.
    """
    check_sizes(batch_size=batch_size, gradient_accumulation_steps=gradient_accumulation_steps, d_steps=d_steps)
    if batch_size % gradient_accumulation_steps:
        raise ValueError(f"batch_size: {batch_size} given, a multiple of {gradient_accumulation_steps} parts is needed")
    size = batch_size // gradient_accumulation_steps
    # Unlike meta tensors, fake ones are on a CPU, and so autocast knows them.
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        generator = Generator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        discriminator = Discriminator(architecture, classes, width, channels, spectral_norm=False, init="normal")
        _normalise(discriminator, ())
        z = torch.empty(size, generator.latent_dim)
        labels = torch.zeros(size, dtype=torch.int64)
        images = torch.empty(size, channels, *architecture.size)
        networks = (generator, discriminator)
        trained = [parameter for network in networks for parameter in network.parameters()]
        held = _size(_tensors(networks)) + 3 * _size(trained) + _size(_tensors([generator]))
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)  # held already, and added to

        def generate() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                made: Tensor = generator(z, labels)
            return made.float()

        def judge(shown: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                scores: Tensor = discriminator(shown, labels.repeat(len(shown) // size))
            return scores.float().sum()

        with _LeanAttention():
            with _Live() as of_discriminator:
                with torch.no_grad():
                    fake = generate()
                judge(torch.cat([images, fake])).backward()  # type: ignore[no-untyped-call]
                del fake
            discriminator.requires_grad_(False)
            with _Live() as of_generator:
                if gradient_accumulation_steps == 1:  # images once, held while D looks at them
                    made = generate()
                (gradient,) = torch.autograd.grad(judge(shown := images.detach().requires_grad_()), shown)
                if gradient_accumulation_steps > 1:
                    made = generate()
                (made * gradient).sum().backward()  # type: ignore[no-untyped-call]
    whole = 4 * batch_size * channels * architecture.size[0] * architecture.size[1]
    # Real images of every step of D; generated ones, their adversarial gradient, the conditions' and the sum of both.
    return Peak(held=held, batch=(d_steps + 4) * whole, part=max(of_discriminator.peak, of_generator.peak))


def cost_table(
    *, width: int | None = None, classes: int = 10, channels: int = 3, batch_size: int = 32
) -> Iterator[str]:
    """Lines of a table of `ARCHITECTURES`: pixels, width, parameters of both networks, memory and arithmetic of a step.

    width   None: each architecture's own. Each line comes when it is known. Raises ValueError for sizes below 1.
    """
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


def _normalise(network: nn.Module, keep: Collection[nn.Module]) -> None:
    """Spectral norms without their power iterations, which take most of the time here and change no size."""
    constrain_layers(network, keep, lambda weight: SpectralNorm(weight, warm_up=0))
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            module.eval()


class _Kept:
    """Storages that a graph keeps beside those of the networks."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.own = {_address(tensor) for tensor in _tensors(networks)}
        self.found: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: Tensor) -> Tensor:
        if _address(tensor) not in self.own:
            self.found[_address(tensor)] = tensor.untyped_storage()  # held, or another could get its address
        return tensor

    @property
    def size(self) -> int:
        return sum(storage.nbytes() for storage in self.found.values())


@contextmanager
def _kept(networks: Iterable[nn.Module]) -> Iterator[_Kept]:
    kept = _Kept(networks)
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        yield kept


def _address(tensor: Tensor) -> int:
    """The same for views of the same memory; tensors without memory have an address of it too."""
    address: int = tensor.untyped_storage()._cdata
    return address


def _tensors(networks: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that were alive at once of all storages made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.alive = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {_address(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(made):  # views and operations in place take nothing
            if isinstance(tensor, Tensor) and _address(tensor) not in (self._known.keys() | given):
                self._add(_address(tensor), tensor.untyped_storage())
        return made

    def _add(self, address: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def forget(_: object) -> None:
            del self._known[address]
            self.alive -= size

        self._known[address] = weakref.ref(storage, forget)
        self.alive += size
        self.peak = max(self.peak, self.alive)


class _LeanAttention(TorchFunctionMode):
    """Attention that makes what a fused kernel makes, and no map at any time; what it computes is not counted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _NoMap.apply(*args)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _NoMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, seen, seen[..., 0].clone())
        return seen

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


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
