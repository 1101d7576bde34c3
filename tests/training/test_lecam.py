from __future__ import annotations

import numpy as np
import pytest
import torch

from schurgan.training.regularizers import DiscriminatorPhase, LeCam

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(1, 2, 6), RNG.normal(-1, 2, 6)) for _ in range(12)]


def tensors(batch: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])


def penalty(lecam: LeCam, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    none = torch.empty(0)
    return lecam.discriminator(DiscriminatorPhase(lecam, none, none, none, real, fake, 0, torch.Generator()))


def decaying(decay: float, start: int) -> LeCam:
    lecam = LeCam(0.3, start)
    lecam.decay = decay
    return lecam


def test_the_penalty_is_the_equation_with_averages_kept_by_hand():
    lecam = decaying(0.9, start=3)
    for i, (real, fake) in enumerate(BATCHES):
        got = penalty(lecam, *tensors((real, fake))).item()
        if i == 0:
            average_real, average_fake = real.mean(), fake.mean()
        else:
            average_real = 0.9 * average_real + 0.1 * real.mean()
            average_fake = 0.9 * average_fake + 0.1 * fake.mean()
        truth = 0.3 * (((real - average_fake) ** 2).mean() + ((fake - average_real) ** 2).mean())
        assert got == pytest.approx(truth if i >= 3 else 0.0, rel=1e-5)  # the averages are float32
    assert lecam.real.item() == pytest.approx(average_real, rel=1e-5)
    assert lecam.fake.item() == pytest.approx(average_fake, rel=1e-5)


def test_the_averages_are_constants_in_the_gradient():
    lecam = decaying(0.0, start=0)  # the averages are this very batch's means
    real, fake = (s.requires_grad_() for s in tensors(BATCHES[0]))
    penalty(lecam, real, fake).backward()
    torch.testing.assert_close(real.grad, 2 * 0.3 * (real.detach() - fake.detach().mean()) / 6)
    torch.testing.assert_close(fake.grad, 2 * 0.3 * (fake.detach() - real.detach().mean()) / 6)


def test_gradients_agree_with_finite_differences():
    lecam = LeCam(0.5, start=0)
    penalty(lecam, *tensors(BATCHES[0]))
    lecam.decay = 1.0  # the averages stay, so that the function does
    assert torch.autograd.gradcheck(
        lambda *scores: penalty(lecam, *scores), [s.requires_grad_() for s in tensors(BATCHES[1])]
    )


def test_a_state_carried_over_continues_bit_for_bit():
    straight, first, second = (decaying(0.9, start=4) for _ in range(3))
    for batch in BATCHES[:7]:
        penalty(first, *tensors(batch))
    second.load_state_dict(first.state_dict())
    values = [penalty(straight, *tensors(batch)) for batch in BATCHES]
    assert values[7:] == [penalty(second, *tensors(batch)) for batch in BATCHES[7:]]
    assert torch.equal(straight.real, second.real)
    assert torch.equal(straight.fake, second.fake)
    assert straight.updates == second.updates


def test_the_state_is_loadable_without_unpickling_anything_but_values(tmp_path):
    lecam = LeCam(0.3)
    penalty(lecam, *tensors(BATCHES[0]))
    torch.save(lecam.state_dict(), tmp_path / "state.pt")
    again = LeCam(0.3)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.real, again.fake, again.updates) == (lecam.real, lecam.fake, 1)


def test_the_averages_are_over_the_scores_of_all_processes(monkeypatch):
    mine, other = BATCHES[0], BATCHES[1]

    def all_reduce(sums, operation):  # a second process
        sums += torch.tensor([other[0].mean(), other[1].mean()])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    lecam = LeCam(1.0, start=0)
    real, fake = tensors(mine)
    value = penalty(lecam, real, fake)
    mean_real, mean_fake = (np.concatenate([a, b]).mean() for a, b in zip(mine, other, strict=True))
    assert lecam.real.item() == pytest.approx(mean_real, rel=1e-6)
    assert lecam.fake.item() == pytest.approx(mean_fake, rel=1e-6)
    truth = ((mine[0] - mean_fake) ** 2).mean() + ((mine[1] - mean_real) ** 2).mean()
    assert value.item() == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight: 0.0"),
        ({"weight": -0.1}, "weight: -0.1"),
        ({"weight": float("nan")}, "weight: nan"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LeCam(**options)
