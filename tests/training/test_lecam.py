from __future__ import annotations

import numpy as np
import pytest
import torch

from schurgan.training.regularizers import LeCam

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(1, 2, 6), RNG.normal(-1, 2, 6)) for _ in range(12)]


def tensors(batch: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(batch[0]), torch.from_numpy(batch[1])


def test_the_penalty_is_the_equation_with_averages_kept_by_hand():
    lecam = LeCam(0.3, decay=0.9, start=3)
    for i, (real, fake) in enumerate(BATCHES):
        got = lecam(*tensors((real, fake))).item()
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
    lecam = LeCam(0.5, decay=0.0, start=0)  # the averages are this very batch's means
    real, fake = (s.requires_grad_() for s in tensors(BATCHES[0]))
    lecam(real, fake).backward()
    torch.testing.assert_close(real.grad, 2 * 0.5 * (real.detach() - fake.detach().mean()) / 6)
    torch.testing.assert_close(fake.grad, 2 * 0.5 * (fake.detach() - real.detach().mean()) / 6)


def test_gradients_agree_with_finite_differences():
    lecam = LeCam(0.5, start=0)
    lecam(*tensors(BATCHES[0]))
    lecam.eval()  # the averages stay, so that the function does
    assert torch.autograd.gradcheck(lecam, [s.requires_grad_() for s in tensors(BATCHES[1])])


def test_a_look_in_eval_mode_or_without_gradients_moves_no_average():
    lecam = LeCam(1.0, start=0)
    lecam(*tensors(BATCHES[0]))
    before = lecam.real.clone(), lecam.fake.clone(), lecam.updates
    with torch.no_grad():
        without_gradients = lecam(*tensors(BATCHES[1]))
    in_eval = lecam.eval()(*tensors(BATCHES[1]))
    assert (lecam.real, lecam.fake, lecam.updates) == before
    assert without_gradients == in_eval != 0


def test_a_state_carried_over_continues_bit_for_bit():
    straight, first, second = (LeCam(0.3, decay=0.9, start=4) for _ in range(3))
    for batch in BATCHES[:7]:
        first(*tensors(batch))
    second.load_state_dict(first.state_dict())
    values = [straight(*tensors(batch)) for batch in BATCHES]
    assert values[7:] == [second(*tensors(batch)) for batch in BATCHES[7:]]
    assert torch.equal(straight.real, second.real)
    assert torch.equal(straight.fake, second.fake)
    assert straight.updates == second.updates


def test_the_state_is_loadable_without_unpickling_anything_but_values(tmp_path):
    lecam = LeCam(0.3)
    lecam(*tensors(BATCHES[0]))
    torch.save(lecam.state_dict(), tmp_path / "state.pt")
    again = LeCam(0.3)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (again.real, again.fake, again.updates) == (lecam.real, lecam.fake, 1)


def test_the_averages_are_over_the_scores_of_all_processes(monkeypatch):
    mine, other = (RNG.normal(1, 2, 6), RNG.normal(-1, 2, 5)), (RNG.normal(4, 2, 3), RNG.normal(2, 2, 2))

    def all_reduce(sums, operation):  # a second process with fewer images
        sums += torch.tensor([other[0].sum(), other[1].sum(), 3, 2])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    lecam = LeCam(1.0, start=0)
    real, fake = tensors(mine)
    penalty = lecam(real, fake)
    mean_real, mean_fake = (np.concatenate([a, b]).mean() for a, b in zip(mine, other, strict=True))
    assert lecam.real.item() == pytest.approx(mean_real, rel=1e-6)
    assert lecam.fake.item() == pytest.approx(mean_fake, rel=1e-6)
    truth = ((mine[0] - mean_fake) ** 2).mean() + ((mine[1] - mean_real) ** 2).mean()
    assert penalty.item() == pytest.approx(truth, rel=1e-6)


def test_scores_in_half_precision_are_squared_in_float32():
    lecam = LeCam(1.0, start=0)
    real, fake = torch.tensor([300.0, 302.0], dtype=torch.float16), torch.tensor([-300.0], dtype=torch.float16)
    penalty = lecam(real, fake)  # 600² is beyond float16
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx((600**2 + 602**2) / 2 + 601**2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight: 0.0"),
        ({"weight": -0.1}, "weight: -0.1"),
        ({"weight": float("nan")}, "weight: nan"),
        ({"weight": 1.0, "decay": 1.0}, "decay: 1.0"),
        ({"weight": 1.0, "start": -1}, "start: -1"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LeCam(**options)
