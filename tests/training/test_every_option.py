"""No option of a step is without effect: another value of each one gives other weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from schurgan.data import Shards
from schurgan.data.loader import Batches
from schurgan.data.shards import split
from schurgan.runs.config import FREE, Config
from schurgan.runs.options import DDFNOptions, ModelOptions, MomentMatchingOptions, RegularizeOptions, TrainOptions
from schurgan.training.build import build_trainer, choose_codec

BASE = {"model.architecture": "small-16", "model.width": 2, "train.batch_size": 8, "ddfn.relative_epsilon": 0.0}
BASE |= {"ddfn.penalty": "quadratic"}
GRAM = {"moment_matching.descriptor": "gram"}
R1 = {"regularize.r1": 1.0}
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "model.width": (3, {}),
    "model.width_d": (3, {}),
    "model.channels": (3, {}),
    "model.colormap": ("magma", {"model.channels": 3}),
    "model.skip_z": ("full", {}),
    "model.embedding": ("separate", {}),
    "model.resample": ("strided", {}),
    "model.attention_g": ((8,), {}),
    "model.attention_d": ((8,), {}),
    "model.latent": ("uniform", {}),
    "model.latent_variance": (4.0, {}),
    "model.spectral_norm_g": (True, {}),
    "model.spectral_norm_d": (False, {}),
    "model.spectral_iterations": (3, {}),
    "model.clamp_g": (1, {}),
    "model.clamp_limit": (0.3, {"model.clamp_g": 1}),
    "model.init": ("glorot", {}),
    "regularize.orthogonal_g": (1.0, {}),
    "regularize.orthogonal_d": (1.0, {}),
    "regularize.orthogonal_kind": ("full", {"regularize.orthogonal_g": 1.0}),
    "regularize.gradient_penalty": (1.0, {}),
    "regularize.r1": (1.0, {}),
    "regularize.r2": (1.0, {}),
    "regularize.penalty_every": (2, R1),
    "regularize.lecam": (1.0, {"regularize.lecam_start": 0}),
    "regularize.lecam_start": (1, {"regularize.lecam": 1.0, "regularize.lecam_start": 0}),
    "regularize.augment": ("cutout", {}),
    "regularize.augment_strength": (0.5, {"regularize.augment": "cutout"}),
    "ddfn.weight": (2.0, {}),
    "ddfn.epsilon": (1.0, {"ddfn.relative_epsilon": None, "ddfn.epsilon": 0.0}),
    "ddfn.relative_epsilon": (0.1, {}),
    "ddfn.penalty": ("hinge", {}),
    "ddfn.estimator": ("exact", {}),
    "ddfn.factor": (4, {}),
    "ddfn.scaling": ("signed", {}),
    "ddfn.channels": ("sum", {"model.channels": 3}),
    "ddfn.per_class": (True, {}),
    "ddfn.constraint": ("image", {}),
    "ddfn.decay": (0.0, {}),
    "ddfn.every": (2, {}),
    "ddfn.exact_subset": (2, {}),
    "moment_matching.descriptor": ("gram", {}),
    "moment_matching.weight": (2.0, GRAM),
    "moment_matching.per_class": (False, GRAM),
    "moment_matching.spread": (False, GRAM),
    "moment_matching.penalty": ("hinge", GRAM | {"moment_matching.spread": False, "moment_matching.balance": False}),
    "moment_matching.epsilon": (0.5, GRAM),
    "moment_matching.decay": (0.0, GRAM),
    "moment_matching.balance": (False, GRAM),
    "moment_matching.estimator": ("exact", {"moment_matching.descriptor": "dfn"}),
    "moment_matching.tau": (50.0, GRAM),
    "train.batch_size": (4, {}),
    "train.d_steps": (2, {}),
    "train.lr_g": (2e-3, {}),
    "train.lr_d": (2e-3, {}),
    "train.betas": ((0.5, 0.9), {}),
    "train.eps": (1e-3, {}),
    "train.loss": ("non_saturating", {}),
    "train.ema_decay": (0.1, {}),
    "train.seed": (1, {}),
    "train.val_fraction": (0.3, {}),
    "train.balanced": (True, {}),
    "train.gradient_accumulation_steps": (2, {}),
    "train.precision": ("bf16", {}),
}
"""Another value of each option, and what must be set beside it."""
# No other one has 16 by 16 pixels, these images have no folds, and the bound over an interval is reported alone.
ELSEWHERE = {"model.architecture", "train.val_folds", "ddfn.interval"}


def weights(shards, **options: Any) -> Tensor:
    """After two steps on the set, as a run takes them."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in (BASE | options).items():
        group, _, option = name.partition(".")
        groups.setdefault(group, {})[option] = value
    config = Config.model_validate(groups)
    train, _ = split(Shards(shards), config.train.val_folds, config.train.val_fraction)
    codec = choose_codec(config, train)
    trainer = build_trainer(config, 8, codec=codec)
    for condition in trainer.conditions.values():
        condition.fit_real((codec.apply_colormap(x), y) for x, y in train.batches(64))
    batches = Batches(train, config.train.batch_size, config.train.seed, balanced=config.train.balanced)
    for step in range(2):
        first = step * config.train.d_steps
        drawn = [batches.batch(number) for number in range(first, first + config.train.d_steps)]
        trainer.training_step([(codec.apply_colormap(x), y) for x, y in drawn])
    parts = (trainer.generator, trainer.discriminator, trainer.generator_ema)
    return torch.cat([p.detach().flatten() for part in parts for p in part.parameters()])


@pytest.fixture(scope="module")
def unchanged(shards) -> Tensor:
    return weights(shards)


@pytest.mark.parametrize("name", OTHERS)
def test_another_value_gives_other_weights(shards, unchanged, name):
    value, beside = OTHERS[name]
    one = weights(shards, **beside) if beside else unchanged
    other = weights(shards, **beside | {name: value})
    assert one.shape != other.shape or not torch.equal(one, other)


def test_every_option_of_a_step_has_another_value_here():
    groups = {"model": ModelOptions, "ddfn": DDFNOptions, "moment_matching": MomentMatchingOptions}
    groups |= {"regularize": RegularizeOptions, "train": TrainOptions}
    known = {f"{group}.{option}" for group, options in groups.items() for option in options.model_fields}
    assert known == OTHERS.keys() | ELSEWHERE | {name for name in FREE if "." in name}
