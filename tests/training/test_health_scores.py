from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from schurgan.evaluation.features.extractor import Extracted
from schurgan.evaluation.metrics.frechet import frechet_distance
from schurgan.evaluation.metrics.variety import variety, vendi_score
from schurgan.networks import Discriminator, Generator, Latent
from schurgan.networks.batch_norm import convert_batch_norm
from schurgan.training.health_scores import HealthScores

CLASSES, SIZE = 3, 16


class Pooled:
    """Means of 4 by 4 pixels as features: an extractor that needs no weights."""

    name, digest, resize = "pooled", "0" * 64, "none"

    def __call__(self, images: Tensor) -> Extracted:
        return Extracted(nn.functional.avg_pool2d(images.double(), 4).flatten(1), None)


class Painter(nn.Module):
    """A generator that adds z to a picture of the class: `spread` is the variety of its images."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return picture(labels) + self.spread * z.view(-1, 1, SIZE, SIZE)


class Height(nn.Module):
    """A discriminator that scores the mean of the picture plus a bias."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return images.mean((1, 2, 3)) + self.bias


def picture(labels: Tensor) -> Tensor:
    return torch.linspace(-0.3, 0.3, SIZE).roll(1)[None, None, None] * (1.0 + labels)[:, None, None, None]


def real(n: int = 120, seed: int = 1, level: float = 0.0, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % CLASSES
    noise = torch.randn(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return picture(labels) + spread * noise + level, labels


LATENT = Latent(SIZE * SIZE)


def networks() -> tuple[Generator, Generator, Discriminator, Latent]:
    torch.manual_seed(0)
    generator = Generator.from_preset("small-16", width=4, classes=CLASSES, channels=1, spectral_norm=True)
    discriminator = Discriminator.from_preset("small-16", width=4, classes=CLASSES, channels=1)
    average = copy.deepcopy(generator)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(1.1)
    return generator, average, discriminator, Latent(generator.latent_dim)


def test_scores_are_those_of_the_images_written_out():
    train, labels = real(90)
    scores = HealthScores((train, labels), extractor=Pooled(), images=90, seed=3)(
        Painter(0.05), Painter(0.2), Height(), LATENT
    )
    z = LATENT.sample(90, torch.Generator().manual_seed(3))
    asked = torch.arange(90) % CLASSES
    fakes = [Painter(spread)(z, asked).detach() for spread in (0.05, 0.2)]
    distances = [frechet_distance(Pooled()(train).features, Pooled()(fake).features) for fake in fakes]
    own = variety(train, labels)
    # Two chunks of 45, and not 64 and 26.
    order = torch.randperm(90, generator=torch.Generator().manual_seed(3))
    kinds, real_kinds = (
        sum(vendi_score(part, own) for part in images.split(45)) for images in (fakes[0], train[order])
    )
    heights_real, heights_fake = train.mean((1, 2, 3)), fakes[0].mean((1, 2, 3))
    right = ((heights_real > 0).double().mean() + (heights_fake < 0).double().mean()).item() / 2
    assert 0 < scores.pop("frechet_floor") < 0.5 * distances[0]  # copies are nearer than another spread
    assert scores == {
        "accuracy_d": pytest.approx(right, rel=1e-12),
        "frechet": pytest.approx(distances[0], rel=1e-6),
        "frechet_ema": pytest.approx(distances[1], rel=1e-6),
        "variety": pytest.approx(variety(fakes[0], asked) / own, rel=1e-6),
        "variety_batch": pytest.approx(kinds / real_kinds, rel=1e-6),
    }
    assert scores["variety"] == pytest.approx(0.5, rel=0.02)  # half the spread, half the distance


def test_a_collapsed_generator_has_one_kind_of_image_a_class_and_no_variety():
    images, labels = real(spread=0.01)
    scores = HealthScores((images, labels), images=90)(Painter(0.0), None, None, LATENT)
    scale = variety(images, labels)
    shown = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))][:90]
    kinds = [vendi_score(part, scale) / len(part) for part in shown.split(45)]
    assert scores == {"variety": 0, "variety_batch": pytest.approx(3 / 45 / (sum(kinds) / len(kinds)), rel=1e-3)}


@pytest.mark.parametrize(("bias", "expected"), [(0.0, 1.0), (5.0, 0.5), (-5.0, 0.5)])
def test_accuracy_of_d_weighs_real_and_generated_images_alike(bias, expected):
    scores = HealthScores(real(30, level=1.0), images=90)(Painter(0.0), None, Height(bias - 0.5), LATENT)
    assert scores["accuracy_d"] == expected


@pytest.mark.parametrize(("level", "expected"), [(1.0, 0.0), (0.25, 0.75), (0.0, 1.0)])
def test_the_held_out_share_is_how_far_towards_fakes_d_ranks_unseen_images(level, expected):
    scores = HealthScores(real(level=1.0), real(60, seed=2, level=level), images=90)
    found = scores(Painter(0.1), None, Height(), LATENT)
    assert found["held_out"] == pytest.approx(expected, abs=0.01)  # means over 256 pixels of 60 images: sd 0.001


def test_the_held_out_share_counts_classes_alike_though_the_sets_mix_them_differently():
    """Scores that depend on the class alone must not pass for memory."""

    class ByClass(Height):
        def forward(self, images: Tensor, labels: Tensor) -> Tensor:
            return images.mean((1, 2, 3)) + labels

    train, labels = real(level=1.0)
    unseen, theirs = real(60, seed=2, level=1.0)
    keep = (theirs != 0) | (torch.arange(60) < 6)
    scores = HealthScores((train, labels), (unseen[keep], theirs[keep]), images=300)
    # The plain means of the labels, 1 and 1.3, would make it −0.3.
    assert scores(Painter(0.1), None, ByClass(), LATENT)["held_out"] == pytest.approx(0, abs=0.02)


def test_what_cannot_be_known_is_left_out():
    plain = HealthScores(real(), images=90)
    assert set(plain(Painter(0.1), None, None, LATENT)) == {"variety", "variety_batch"}
    assert set(plain(Painter(0.1), Painter(0.1), Height(), LATENT)) == {"variety", "variety_batch", "accuracy_d"}
    unbounded = HealthScores(real(), real(seed=2), images=90, boundary=None)
    # Painter's images are as high as real ones: D has no lead that could be shared out.
    assert set(unbounded(Painter(0.1), None, Height(), LATENT)) == {"variety", "variety_batch"}
    constant = torch.zeros(9, 1, SIZE, SIZE), torch.arange(9) % CLASSES
    assert HealthScores(constant, images=90)(Painter(0.1), None, None, LATENT) == {}
    single = real(3)  # one image a class
    assert HealthScores(single, images=90)(Painter(0.1), None, None, LATENT) == {}


def test_a_network_that_is_not_finite_any_more_is_flagged_and_not_scored():
    scores = HealthScores(real(level=1.0), real(seed=2), extractor=Pooled(), images=90)
    broken = scores(Painter(math.nan), Painter(0.1), Height(), LATENT)
    assert broken.pop("frechet_floor") > 0
    assert set(broken) == {"frechet", "frechet_ema", "variety", "variety_batch", "accuracy_d", "held_out"}
    assert [name for name, value in broken.items() if math.isfinite(value)] == ["frechet_ema"]
    judge = scores(Painter(0.1), None, Height(math.inf), LATENT)
    assert math.isnan(judge["accuracy_d"])
    assert math.isnan(judge["held_out"])


def test_generators_use_the_statistics_of_their_batch_and_spectral_norms_rest():
    generator, average, discriminator, latent = networks()
    scores = HealthScores(real(), extractor=Pooled(), images=64, seed=5)
    found = scores(generator, average, discriminator, latent)
    alone = copy.deepcopy(generator).eval()
    for module in alone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        images = alone(latent.sample(64, torch.Generator().manual_seed(5)), torch.arange(64) % CLASSES)
    truth = frechet_distance(Pooled()(real()[0]).features, Pooled()(images).features)
    assert found["frechet"] == pytest.approx(truth, rel=1e-6)


def test_the_run_goes_on_as_if_nobody_had_looked():
    generator, average, discriminator, latent = networks()
    generator.train()
    average.eval()
    discriminator.train().blocks[0].eval()  # a mode of its own must come back too
    parts = (generator, average, discriminator)
    before = [(copy.deepcopy(p.state_dict()), [m.training for m in p.modules()]) for p in parts]
    gradients = [[q.requires_grad for q in p.parameters()] for p in parts]
    chance = torch.random.get_rng_state()
    scores = HealthScores(real(), real(seed=2), extractor=Pooled(), images=90)
    first = scores(*parts, latent)
    assert first == scores(*parts, latent)
    assert torch.equal(torch.random.get_rng_state(), chance)
    for part, (state, modes), wanted in zip(parts, before, gradients, strict=True):
        assert [m.training for m in part.modules()] == modes
        assert [q.requires_grad for q in part.parameters()] == wanted
        assert all(q.grad is None for q in part.parameters())
        assert all(torch.equal(value, state[name]) for name, value in part.state_dict().items())


def test_a_generator_with_noise_of_its_own_gives_the_same_scores_and_leaves_the_random_numbers_alone():
    class Noisy(Painter):
        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            return super().forward(z, labels) + 0.1 * torch.randn(len(z), 1, SIZE, SIZE)

    scores = HealthScores(real(), images=90)
    chance = torch.random.get_rng_state()
    assert scores(Noisy(0.1), None, None, LATENT) == scores(Noisy(0.1), None, None, LATENT)
    assert torch.equal(torch.random.get_rng_state(), chance)


def test_a_large_set_is_judged_by_a_part_that_the_seed_draws():
    train, labels = real(2500)
    one, again, other = (HealthScores((train, labels), images=90, seed=seed) for seed in (0, 0, 1))
    assert one._variety == again._variety != other._variety
    assert one._variety == pytest.approx(variety(train, labels), rel=0.01)


def _score() -> dict[str, float]:
    generator, average, discriminator, latent = networks()
    scores = HealthScores(real(), real(seed=2, level=0.1), extractor=Pooled(), images=150)  # three chunks
    return scores(convert_batch_norm(generator), convert_batch_norm(average), discriminator, latent)


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save(_score(), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_share_the_work_and_both_know_what_one_would(tmp_path: Path):
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = _score()
    assert found[0] == found[1]
    assert found[0] == pytest.approx(alone, rel=1e-6)  # the same sums, at most in other instructions
