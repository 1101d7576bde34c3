"""Batch norm over two processes of torch.distributed (gloo) against one process with the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from schurgan.networks import Generator, Latent
from schurgan.networks.batch_norm import CrossReplicaBatchNorm2d, convert_batch_norm, local_statistics

SHARES = (slice(0, 3), slice(3, 8))  # of a batch of eight
State = dict[str, Any]


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 6, 5, generator=chance, dtype=torch.float64)
    x = x * torch.tensor([0.01, 1.0, 5.0, 1.0])[:, None, None] + torch.tensor([0.0, -3.0, 40.0, 1.0])[:, None, None]
    return x.to(dtype, memory_format=torch.channels_last)


def layer(dtype: torch.dtype, momentum: float | None, affine: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, eps=1e-4, momentum=momentum, affine=affine).to(dtype)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0, 3.0]))
            norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    return norm


def normalise(norm: nn.BatchNorm2d, share: slice, dtype: torch.dtype) -> State:
    """Two steps of a loss that sees every value: outputs, gradients, and the state after them."""
    chance = torch.Generator().manual_seed(1)
    target = torch.randn(8, 4, 6, 5, generator=chance, dtype=torch.float64).to(dtype)
    for scale in (1.0, 1.5):
        x = (scale * images(dtype))[share].clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(x)
        norm.zero_grad()
        (y.sin() * target[share]).sum().backward()
    assert x.grad is not None
    state = {"y": y.detach(), "x": x.grad, "channels_last": y.is_contiguous(memory_format=torch.channels_last)}
    return state | {"grads": [p.grad for p in norm.parameters()], "state": dict(norm.state_dict())}


LAYERS = {
    "float64": (torch.float64, 0.1, True),
    "float32": (torch.float32, 0.1, True),
    "cumulative": (torch.float64, None, True),
    "plain": (torch.float64, 0.1, False),
}


def generator() -> Generator:
    torch.manual_seed(0)
    network = Generator.from_preset("small-16", width=4, classes=3, channels=1, spectral_norm=True)
    return network.to(dtype=torch.float64, memory_format=torch.channels_last)  # type: ignore[call-overload]


def generate(network: Generator, share: slice) -> State:
    chance = torch.Generator().manual_seed(2)
    z = Latent(network.latent_dim).sample(8, chance).double()
    target = torch.randn(8, 1, 16, 16, generator=chance, dtype=z.dtype)
    z = z[share].requires_grad_()
    made = network(z, (torch.arange(8) % 3)[share])
    (made * target[share]).sum().backward()
    return {"made": made.detach(), "z": z.grad, "grads": [p.grad for p in network.parameters()]} | {
        "state": {name: value for name, value in network.state_dict().items() if "running" in name}
    }


def second_derivative_error() -> str:
    norm = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(4)))
    x = images(torch.float32)[:2].requires_grad_()
    (gradient,) = torch.autograd.grad(norm(x).sin().sum(), x, create_graph=True)
    try:
        gradient.square().sum().backward()
    except RuntimeError as error:
        return str(error)
    return ""


def local_output(rank: int) -> bool:
    """Whether a process alone, one call each rank more than the one before, does what plain batch norm does."""
    plain = layer(torch.float32, 0.1, True)
    norm = convert_batch_norm(nn.Sequential(copy.deepcopy(plain)))
    with local_statistics(norm):
        same = all(torch.equal(norm(images(torch.float32)), plain(images(torch.float32))) for _ in range(1 + rank))
    norm.eval()
    plain.eval()
    return same and torch.equal(norm(images(torch.float32)), plain(images(torch.float32)))


def half(rank: int) -> State:
    norm = CrossReplicaBatchNorm2d(4)
    x = images(torch.float32).to(torch.bfloat16)[SHARES[rank]].requires_grad_()
    y = norm(x)
    (y.float().sin()).sum().backward()
    return {"y": y.detach(), "x": x.grad, "mean": norm.running_mean, "var": norm.running_var}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        share = SHARES[rank]
        out: State = {
            name: normalise(convert_batch_norm(nn.Sequential(layer(*options)))[0], share, options[0])  # type: ignore[arg-type]
            for name, options in LAYERS.items()
        }
        out["generator"] = generate(convert_batch_norm(generator()), share)
        out["second"] = second_derivative_error()
        out["local"] = local_output(rank)
        out["half"] = half(rank)
        torch.save(out, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """What each of two processes had; written by this test."""
    folder = tmp_path_factory.mktemp("shared")
    mp.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_whole(shared: list[State], alone: State, rows: tuple[str, ...], **tolerance: float) -> None:
    """Rows of the processes are those of one process, gradients of parameters add up to its, states are its."""
    for name in rows:
        torch.testing.assert_close(torch.cat([each[name] for each in shared]), alone[name], **tolerance)
    for first, second, whole in zip(shared[0]["grads"], shared[1]["grads"], alone["grads"], strict=True):
        scale = tolerance | {"atol": tolerance["atol"] * max(1.0, whole.abs().max().item())}
        torch.testing.assert_close(first + second, whole, **scale)
    for each in shared:
        torch.testing.assert_close(dict(each["state"]), alone["state"], **tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_two_processes_with_unequal_shares_normalise_as_one_with_the_whole_batch(shared: list[State], name: str):
    dtype, momentum, affine = LAYERS[name]
    alone = normalise(layer(dtype, momentum, affine), slice(None), dtype)
    assert all(each[name]["channels_last"] for each in shared)
    # Rounding of sums in another order, times up to 100: the channel of standard deviation 0.01 is divided by it.
    limit = 1e-10 if dtype == torch.float64 else 2e-5
    assert_whole([each[name] for each in shared], alone, ("y", "x"), rtol=limit, atol=limit)


def test_running_statistics_are_the_same_bits_on_every_process(shared: list[State]):
    first, second = (each["float32"]["state"] for each in shared)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_whole_generator_over_two_processes_is_that_of_one(shared: list[State]):
    alone = generate(generator(), slice(None))
    assert_whole([each["generator"] for each in shared], alone, ("made", "z"), rtol=1e-10, atol=1e-10)


def test_half_precision_is_counted_in_single(shared: list[State]):
    norm = nn.BatchNorm2d(4)
    x = images(torch.float32).to(torch.bfloat16).float().requires_grad_()
    y = norm(x)
    y.sin().sum().backward()
    for each in shared:  # what single precision makes of the same rounded images
        torch.testing.assert_close(each["half"]["mean"], norm.running_mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each["half"]["var"], norm.running_var, rtol=1e-5, atol=1e-5)
    made, gradient = (torch.cat([each["half"][name] for each in shared]).float() for name in ("y", "x"))
    torch.testing.assert_close(made, y.detach(), rtol=2**-8, atol=2**-8)  # eight bits are kept of each value
    assert x.grad is not None
    largest = x.grad.abs().amax((0, 2, 3), keepdim=True)  # the cosine of a rounded output is in the gradient
    assert ((gradient - x.grad).abs() / largest).max() < 3 * 2**-8


def test_a_second_derivative_is_refused(shared: list[State]):
    assert all("once_differentiable" in each["second"] for each in shared)


def test_with_local_statistics_each_process_is_alone(shared: list[State]):
    assert all(each["local"] for each in shared)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_process_has_the_bits_of_plain_batch_norm(momentum: float | None):
    plain = layer(torch.float32, momentum, True)
    norm = convert_batch_norm(nn.Sequential(copy.deepcopy(plain)))[0]
    assert isinstance(norm, CrossReplicaBatchNorm2d)
    whole, ours = (normalise(each, slice(None), torch.float32) for each in (plain, norm))
    assert torch.equal(whole["y"], ours["y"])
    assert torch.equal(whole["x"], ours["x"])
    assert all(torch.equal(a, b) for a, b in zip(whole["grads"], ours["grads"], strict=True))
    assert all(torch.equal(whole["state"][name], ours["state"][name]) for name in whole["state"])


def test_conversion_keeps_parameters_names_and_modes_and_leaves_other_classes():
    class Own(nn.BatchNorm2d):
        pass

    network: Callable[..., Any] = nn.Sequential(nn.BatchNorm2d(2), Own(2), nn.BatchNorm1d(2))
    network.eval()
    before, names = list(network.parameters()), list(network.state_dict())
    assert convert_batch_norm(network) is network
    assert [type(each) for each in network] == [CrossReplicaBatchNorm2d, Own, nn.BatchNorm1d]
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))
    assert list(network.state_dict()) == names
    assert not network[0].training
    assert type(copy.deepcopy(network)[0]) is CrossReplicaBatchNorm2d


def test_local_statistics_come_back_after_an_error():
    network = convert_batch_norm(nn.Sequential(nn.BatchNorm2d(2)))
    with pytest.raises(ZeroDivisionError), local_statistics(network):
        1 / (not network[0].local)
    assert not network[0].local
