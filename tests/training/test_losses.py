"""Each loss against its equation written out in float64 with NumPy, and at the far ends of the scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schurgan.training.losses import LOSSES, Hinge


def logistic(s):
    return 1 / (1 + np.exp(-s))


# name: (what D minimises, what G minimises), as in the papers, in probabilities where they speak of probabilities
EQUATIONS = {
    "minimax": (
        lambda r, f: -(np.log(logistic(r)).mean() + np.log(1 - logistic(f)).mean()),
        lambda f: np.log(1 - logistic(f)).mean(),
    ),
    "non_saturating": (
        lambda r, f: -(np.log(logistic(r)).mean() + np.log(1 - logistic(f)).mean()),
        lambda f: -np.log(logistic(f)).mean(),
    ),
    "hinge": (
        lambda r, f: np.maximum(0, 1 - r).mean() + np.maximum(0, 1 + f).mean(),
        lambda f: -f.mean(),
    ),
    "least_squares": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, 64)  # 1 − σ(s) loses no more than 1e-12 of itself at these


def test_the_table_holds_every_loss_and_no_other():
    assert set(LOSSES) == set(EQUATIONS)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_its_equation(name):
    real, fake = scores(0), scores(1)
    of_d, of_g = EQUATIONS[name]
    loss = LOSSES[name]
    assert loss.discriminator(torch.from_numpy(real), torch.from_numpy(fake)).item() == pytest.approx(
        of_d(real, fake), rel=1e-10
    )
    assert loss.generator(torch.empty(0), torch.from_numpy(fake)).item() == pytest.approx(of_g(fake), rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradients_of_a_loss_are_those_of_its_equation(name):
    real, fake = scores(2)[:8], scores(3)[:8]
    of_d, of_g = EQUATIONS[name]
    r, f = (torch.from_numpy(s).requires_grad_() for s in (real, fake))
    for loss, given, equation in (
        (LOSSES[name].discriminator(r, f), r, lambda s: of_d(s, fake)),
        (LOSSES[name].discriminator(r, f), f, lambda s: of_d(real, s)),
        (LOSSES[name].generator(torch.empty(0), f), f, of_g),
    ):
        (gradient,) = torch.autograd.grad(loss, given)
        steps = 1e-5 * np.eye(8)
        here = given.detach().numpy()
        slope = [(equation(here + step) - equation(here - step)) / 2e-5 for step in steps]
        np.testing.assert_allclose(gradient.numpy(), slope, atol=1e-8)  # central differences: 1e-10 for h = 1e-5


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_loss_and_gradient_are_finite_at_any_score(name, level):
    real, fake = (torch.full((4,), value, requires_grad=True) for value in (level, -level))
    for loss in (LOSSES[name].discriminator(real, fake), LOSSES[name].generator(torch.empty(0), fake)):
        assert loss.isfinite()
        loss.backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.isfinite().all()
    assert fake.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_d_is_better_off_where_it_tells_both_apart_and_g_where_d_is_fooled(name):
    one = torch.ones(4)
    loss = LOSSES[name]
    assert loss.discriminator(one, -one) < loss.discriminator(-one, one)
    assert loss.generator(-one, one) < loss.generator(one, -one)


def test_the_literal_game_saturates_where_d_is_sure_and_the_other_does_not():
    sure = torch.full((1,), -30.0, requires_grad=True)
    slope = {
        name: torch.autograd.grad(LOSSES[name].generator(torch.empty(0), sure), sure)[0].item() for name in EQUATIONS
    }
    assert slope["minimax"] == pytest.approx(-np.exp(-30), rel=1e-5)  # −σ(s): G learns nothing
    assert slope["non_saturating"] == pytest.approx(-1, rel=1e-5)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.boundary is not None])
def test_the_boundary_is_the_score_where_the_best_d_has_even_odds(name):
    """D against as many real as generated images of one kind: its best single score says "half and half"."""
    score = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    costs = torch.stack([LOSSES[name].discriminator(s[None], s[None]) for s in score])
    best = score[costs <= costs.min() + 1e-12]
    assert best.min() - 1e-9 <= LOSSES[name].boundary <= best.max() + 1e-9  # hinge is content with −1 to 1
    assert best.mean().item() == pytest.approx(LOSSES[name].boundary, abs=1e-9)


def test_only_wasserstein_leaves_the_scores_without_bound_and_says_so():
    far, farther = torch.tensor([1e3]), torch.tensor([1e4])
    unbounded = {
        n for n, loss in LOSSES.items() if loss.discriminator(farther, -farther) < loss.discriminator(far, -far)
    }
    assert unbounded == {name for name, loss in LOSSES.items() if loss.lipschitz} == {"wasserstein"}


def test_hinge_of_scores_worked_out_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.5])
    # max(0, 1 − D(x)): 0, 0.5, 2; max(0, 1 + D(G)): 0, 1, 2.5
    assert Hinge().discriminator(real, fake).item() == pytest.approx(2.5 / 3 + 3.5 / 3)
    assert Hinge().generator(real, fake).item() == pytest.approx(1.5 / 3)


def test_hinge_moves_only_the_scores_inside_its_margin():
    real = torch.tensor([2.0, 0.5], requires_grad=True)
    fake = torch.tensor([-3.0, 0.0], requires_grad=True)
    Hinge().discriminator(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0, 0.5]


def test_hinge_is_the_default_and_known_by_its_name():
    assert isinstance(LOSSES["hinge"], Hinge)
