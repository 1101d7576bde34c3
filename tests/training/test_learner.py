"""Number formats, and steps left out because a number is not finite."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from schurgan.training.learner import LossScale, Precision, guarded_step

CPU = torch.device("cpu")


def adam(network: nn.Module, kind: type[torch.optim.Adam] = torch.optim.Adam) -> torch.optim.Adam:
    return kind(network.parameters(), 0.01, betas=(0.5, 0.9), fused=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(network: nn.Module, spoil: float = 1.0) -> Tensor:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    loss: Tensor = (network(x) * spoil).square().mean()
    return loss


def snapshot(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [value.detach().clone() for value in (*network.parameters(), *moments)]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("spoiled", ["gradient nan", "gradient inf", "loss nan", "loss inf"])
def test_a_step_that_is_not_finite_changes_no_weight_no_moment_and_no_count(kind: type[torch.optim.Adam], spoiled: str):
    net = network()
    optimizer = adam(net, kind)
    loss_of(net).backward()
    assert guarded_step(optimizer, [loss_of(net)]) == 0
    before = snapshot(net, optimizer)
    what, value = spoiled.split()
    losses = [loss_of(net)] + ([torch.tensor(float(value))] if what == "loss" else [])
    if what == "gradient":
        net[2].bias.grad.fill_(float(value))
    assert guarded_step(optimizer, losses) == 1
    after = snapshot(net, optimizer)
    assert len(before) == 4 + 4 * 3
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_finite_steps_are_those_of_the_optimiser_alone_also_after_one_left_out():
    net, plain = network(), network()
    optimizer, alone = adam(net), adam(plain)
    for step in range(5):
        for each in (net, plain):
            each.zero_grad()
            loss_of(each, float("nan") if step == 2 and each is net else 1.0).backward()
        guarded_step(optimizer, [])
        if step != 2:
            alone.step()
    for a, b in zip(snapshot(net, optimizer), snapshot(plain, alone), strict=True):
        assert torch.equal(a, b)


def test_the_very_first_step_may_be_left_out():
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = adam(net)
    loss_of(net, float("inf")).backward()
    assert guarded_step(optimizer, []) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(state["step"] == 0 for state in optimizer.state.values())


def test_an_optimiser_that_cannot_be_guarded_is_refused():
    net = network()
    with pytest.raises(ValueError, match="fused=True is needed"):
        guarded_step(torch.optim.Adam(net.parameters(), 0.01), [])


def test_a_loss_scale_changes_no_step():
    net, plain = network(), network()
    optimizer, alone, scale = adam(net), adam(plain), LossScale()
    for _ in range(3):
        net.zero_grad()
        scale.apply(loss_of(net)).backward()
        guarded_step(optimizer, [], scale)
        plain.zero_grad()
        loss_of(plain).backward()
        guarded_step(alone, [])  # by a power of two: no rounding
    for a, b in zip(snapshot(net, optimizer), snapshot(plain, alone), strict=True):
        assert torch.equal(a, b)


def test_a_loss_scale_halves_after_a_bad_step_and_doubles_after_a_row_of_good_ones():
    scale = LossScale()
    scale.interval = 3
    scale.value.fill_(8.0)
    seen = []
    for bad in (1, 0, 0, 1, 0, 0, 0, 0):
        scale.update(torch.tensor(float(bad)))
        seen.append(scale.value.item())
    assert seen == [4, 4, 4, 2, 2, 2, 4, 4]
    again = LossScale()
    again.load_state_dict(copy.deepcopy(scale.state_dict()))
    assert (again.value.item(), again.streak.item()) == (4, 1)


def test_float16_gradients_that_vanish_without_a_scale_are_kept_by_it():
    precision = Precision("fp16", CPU)
    scale = precision.loss_scale()
    assert scale is not None

    def gradient(factor: Tensor) -> Tensor:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
        with precision.autocast():
            out = layers(torch.ones(2, 1, 8, 8))
        assert out.dtype == torch.float16
        (1e-6 * out.float().mean() * factor).backward()
        return layers[0].weight.grad / factor

    exact = gradient_in_single()
    assert gradient(torch.tensor(1.0)).abs().max() == 0
    # Eleven bits, and sums of tens of them.
    torch.testing.assert_close(gradient(scale.value), exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def gradient_in_single() -> Tensor:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))
    (1e-6 * layers(torch.ones(2, 1, 8, 8)).mean()).backward()
    gradient: Any = layers[0].weight.grad
    return gradient


@pytest.mark.parametrize(
    ("name", "made"),
    [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_networks_run_in_the_format(name: Any, made: torch.dtype):
    precision = Precision(name, CPU)
    layer = nn.Linear(3, 2)
    with precision.autocast():
        out = layer(torch.ones(1, 3))
    assert out.dtype == made
    assert (precision.loss_scale() is not None) is (name == "fp16")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match='"fp8" given'):
        Precision("fp8", CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "allowed"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_torchs_switches_are_set_inside_and_come_back_after_an_error(name: Any, allowed: bool):
    def state() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = state()
    with pytest.raises(KeyError) as caught, Precision(name, CPU).switches():
        raise KeyError(state())
    assert caught.value.args[0] == (allowed, allowed)
    assert state() == before


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        net = network()
        optimizer = adam(net)
        flags = []
        for bad in (None, 0, 1):
            net.zero_grad()
            loss_of(net).backward()
            flags.append(guarded_step(optimizer, [torch.tensor(float("nan") if rank == bad else 1.0)]))
        counts = torch.stack([state["step"] for state in optimizer.state.values()])
        weights = torch.cat([p.detach().flatten() for p in net.parameters()])
        torch.save(
            {"flags": torch.stack(flags), "counts": counts, "weights": weights}, os.path.join(folder, f"{rank}.pt")
        )
    finally:
        dist.destroy_process_group()


def test_all_processes_leave_out_the_step_that_one_of_them_cannot_take(tmp_path: Any):
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for each in (first, second):
        assert each["flags"].tolist() == [0, 1, 1]
        assert each["counts"].tolist() == [1, 1, 1, 1]
    assert torch.equal(first["weights"], second["weights"])
