"""From options to networks and a step: whatever is valid trains, and what is not is refused by its name."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schurgan.networks import ARCHITECTURES, SpectralClamp, leading_singular_values
from schurgan.runs.config import Config
from schurgan.runs.options import DDFNOptions, ModelOptions, RegularizeOptions, TrainOptions
from schurgan.training.augment import POLICIES
from schurgan.training.build import (
    build_architecture,
    build_conditions,
    build_generator,
    build_regularizers,
    build_trainer,
)
from schurgan.training.losses import LOSSES

DEVICE = torch.device("cpu")
SMALL = [name for name, architecture in ARCHITECTURES.items() if architecture.size[0] <= 32]
OTHERS = [name for name in ARCHITECTURES if name not in SMALL]


@st.composite
def configurations(draw: st.DrawFn, names: list[str]) -> Config:
    def some(*values):
        return draw(st.sampled_from(values))

    name = draw(st.sampled_from(names))
    architecture = ARCHITECTURES[name]
    clamp = some(0, 0, 1, 3)
    latent = some("normal", "uniform")
    strided = all(stage.scale <= 3 for stage in (*architecture.generator, *architecture.discriminator))
    heights = {
        part: sorted({h for h, _ in architecture.maps(part) if 2 <= h <= 16}) for part in ("generator", "discriminator")
    }
    model = ModelOptions(
        architecture=name,
        width=draw(st.integers(1, 4)),
        channels=draw(st.integers(1, 4)),
        embedding=some(None, "shared", "linear", "separate"),
        skip_z=some(None, "full", "none", "chunks"),
        resample=some(None, "nearest", *(["strided"] if strided else [])),
        attention_g=draw(
            st.none() | st.lists(st.sampled_from(heights["generator"]), max_size=2, unique=True).map(tuple)
        ),
        attention_d=draw(
            st.none() | st.lists(st.sampled_from(heights["discriminator"] or [0]), max_size=2, unique=True).map(tuple)
        )
        if heights["discriminator"]
        else None,
        latent=latent,
        latent_variance=some(None, 0.02, 2.0) if latent == "normal" else None,
        spectral_norm_g=draw(st.booleans()) and not clamp,
        spectral_norm_d=draw(st.booleans()),
        spectral_iterations=some(1, 2),
        clamp_g=clamp,
        clamp_limit=some(None, 1.0) if clamp else None,
        init=some("orthogonal", "glorot", "normal"),
    )
    weight = st.sampled_from([0.0, 0.0, 1e-3, 1.0])
    loss = some(*LOSSES)
    regularize = RegularizeOptions(
        orthogonal_g=draw(weight),
        orthogonal_d=draw(weight),
        orthogonal_kind=some("relaxed", "full"),
        gradient_penalty=10.0 if loss == "wasserstein" else draw(weight),
        r1=draw(weight),
        r2=draw(weight),
        penalty_every=some(1, 2),
        lecam=draw(weight),
        lecam_start=0,
        augment=",".join(draw(st.lists(st.sampled_from(POLICIES), unique=True))),
        augment_strength=some(0.0, 0.5, 1.0),
    )
    constraint = some("mean", "image")
    estimator = some("exact", "hybrid", "perron", "asymmetry", "moments", "paper_symmetric")
    ddfn = DDFNOptions(
        weight=some(0.0, 1.0),
        relative_epsilon=some(None, 0.0, 0.1),
        constraint=constraint,
        penalty=some("hinge", "quadratic", *(["augmented"] if constraint == "mean" else [])),
        estimator=estimator,
        scaling="unit" if estimator == "perron" else some("unit", "signed"),
        channels=some("mean", "sum", *(["luminance"] if model.channels in (1, 3) else [])),
        per_class=draw(st.booleans()),
        every=some(1, 2),
        exact_subset=some(0, 1),
    )
    train = TrainOptions(
        batch_size=draw(st.integers(2, 4)),
        d_steps=some(1, 2),
        loss=loss,
        seed=draw(st.integers(0, 100)),
    )
    return Config(model=model, regularize=regularize, ddfn=ddfn, train=train)


def step_and_check(config: Config) -> None:
    trainer = build_trainer(config, 3)
    size = trainer.generator.architecture.size
    noise = torch.Generator().manual_seed(config.train.seed)
    images = torch.rand(12, config.model.channels, *size, generator=noise) * 1.8 - 0.9
    labels = torch.arange(12) % 3
    trainer.conditions["ddfn"].fit_real([(images, labels)])
    n = config.train.batch_size
    batches = [(images[i * n : (i + 1) * n], labels[i * n : (i + 1) * n]) for i in range(config.train.d_steps)]
    metrics = trainer.training_step(batches)
    bad = [name for name, value in metrics.items() if not value.isfinite().all()]
    for part in ("generator", "discriminator", "generator_ema"):
        network = getattr(trainer, part)
        bad += [f"{part}.{name}" for name, value in network.named_parameters() if not value.isfinite().all()]
    assert not bad


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(configurations(SMALL))
def test_random_valid_configurations_build_step_and_stay_finite(config):
    step_and_check(config)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(configurations(SMALL * 40 + OTHERS))
def test_a_thousand_random_valid_configurations_build_step_and_stay_finite(config):
    step_and_check(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "sagan-33"}, 'did you mean "sagan-32"'),
        ({"architecture": "proposed-literal-128", "resample": "strided"}, 'resample: "strided" given'),
        (
            {"architecture": "small-32", "attention_g": (5,)},
            "attention: 5 given, the stages of the generator give heights",
        ),
        ({"architecture": "small-32", "attention_d": (64,)}, "attention: 64 given, the stages of the discriminator"),
        ({"clamp_g": 1, "spectral_norm_g": True}, "clamp_g: 1 given beside spectral_norm_g"),
        ({"latent": "uniform", "latent_variance": 2.0}, "variance: 2.0 given for a uniform z"),
    ],
)
def test_model_options_that_do_not_fit_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build_trainer(Config(model=ModelOptions(**options)), 3)


def test_wasserstein_without_a_gradient_penalty_is_refused():
    with pytest.raises(ValueError, match=r'gradient_penalty: 0 given, the loss "wasserstein" needs one'):
        build_trainer(Config(train=TrainOptions(loss="wasserstein")), 3)


def test_options_know_every_loss():
    assert set(get_args(TrainOptions.model_fields["loss"].annotation)) == set(LOSSES)


def test_an_unknown_augmentation_is_refused_with_the_nearest():
    config = Config(regularize=RegularizeOptions(augment="color"))
    with pytest.raises(ValueError, match='policy "color": no such policy; did you mean "colour"'):
        build_trainer(config, 3)


def test_a_regulariser_without_weight_is_not_there():
    assert build_regularizers(RegularizeOptions()) == []
    options = RegularizeOptions(orthogonal_g=1e-4, lecam=0.3, lecam_start=7, r1=2.0, penalty_every=4)
    orthogonal, lecam, r1 = build_regularizers(options)
    assert (orthogonal.weight, orthogonal.network) == (1e-4, "generator")
    assert (lecam.weight, lecam.start) == (0.3, 7)
    assert (r1.weight, r1.every) == (2.0, 4)


def test_the_discriminator_alone_has_a_width_of_its_own():
    for width_d, channels in ((None, 2), (6, 6)):
        trainer = build_trainer(Config(model=ModelOptions(architecture="small-16", width=2, width_d=width_d)), 3)
        assert trainer.generator.output.in_channels == 2
        assert trainer.discriminator.blocks[0].conv1.out_channels == channels


def test_options_reach_ddfn():
    options = DDFNOptions(
        weight=2.0,
        epsilon=3.0,
        relative_epsilon=0.1,
        constraint="image",
        penalty="quadratic",
        estimator="exact",
        factor=4,
        scaling="signed",
        channels="sum",
        per_class=True,
        decay=0.5,
        every=3,
        exact_subset=2,
        interval=(-0.5, 0.25),
    )
    assert options.model_fields_set == set(DDFNOptions.model_fields)
    ddfn = build_conditions(Config(ddfn=options), 3)["ddfn"]
    assert {name: getattr(ddfn, name) for name in DDFNOptions.model_fields} == options.model_dump()


def test_options_reach_the_networks():
    model = ModelOptions(
        architecture="small-32",
        width=2,
        skip_z="full",
        attention_g=(8, 16),
        clamp_g=2,
        clamp_limit=0.5,
        latent_variance=0.02,
    )
    architecture = build_architecture(model)
    assert architecture.skip_z == "full"
    assert [stage.attention for stage in architecture.generator] == [True, True, False]
    network = build_generator(model, 3)
    assert all(values[0] <= 0.5 + 1e-4 for values in leading_singular_values(network).values() if len(values) > 2)
    assert any(isinstance(module, SpectralClamp) and module.count == 2 for module in network.modules())
    z = build_trainer(Config(model=model), 3).latent.sample(4000, torch.Generator().manual_seed(0))
    assert z.var().item() == pytest.approx(0.02, rel=0.05)  # 4,000 times 64 draws: 0.3 %
