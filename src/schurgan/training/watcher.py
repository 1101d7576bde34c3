"""Evaluate the health of a run while it trains: how often, what is measured, and the monitor's verdict."""

from __future__ import annotations

import copy
import math
import time
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.core.distributed import World
from schurgan.core.progress import Bar
from schurgan.data.codec import Codec
from schurgan.data.dataset import LabelledImages
from schurgan.evaluation.features.extractor import Extracted, Extractor
from schurgan.evaluation.features.registry import open_extractor
from schurgan.health import Monitor, Verdict
from schurgan.networks import layer_maps
from schurgan.networks.batch_norm import local_statistics
from schurgan.normality import DDFN, departure_from_normality
from schurgan.runs.config import Config
from schurgan.training.health_scores import HealthScores
from schurgan.training.logger import Means
from schurgan.training.trainer import Metrics, Trainer

_MOST_REAL = 2000  # real images that generated ones are compared with
_EXACT = 32  # images whose departure is computed exactly
_MAPS = 1024  # maps of a layer whose departure is
_MEANS = ("gradient_g", "loss_d", "loss_g")  # means since the evaluation before
_STEPS_TIMED = 10
_GRACE = 3000  # steps at most after which a generator that was never varied has failed


class Watcher:
    """Evaluates a run every `config.health.every` steps, or less often where that would take too much of its time.

    The first evaluation settles how often. That is part of the state, so that a resumed run is evaluated at the same
    steps as one that never stopped.
    """

    def __init__(
        self, config: Config, training: LabelledImages, held_out: LabelledImages | None, codec: Codec, world: World
    ) -> None:
        self.options, self.world = config.health, world
        self.stretch = 0  # evaluations come so many times less often; 0: not settled yet
        self._config, self._training, self._held_out, self._codec = config, training, held_out, codec
        self.reset()
        self._scores: HealthScores | None = None
        self._real_departure: float | None = None  # of real images at the size of the maps of `layer`
        self.score: float | None = None  # the averaged generator's Fréchet distance at the newest evaluation
        self._timed: list[float] = []

    def reset(self) -> None:
        """Go back to the state before the first step."""
        # A short run must learn in time that it has never been varied.
        grace = max(self.options.warm_up, min(_GRACE, self._config.train.steps // 2))
        self.monitor = Monitor(patience=self.options.patience, warm_up=self.options.warm_up, grace=grace)
        self.means = Means()
        self._state = self.monitor.verdict().state

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of a step."""
        self.means.add(metrics)
        if not self.stretch and len(self._timed) <= _STEPS_TIMED:
            self._timed.append(time.monotonic())

    def due(self, step: int) -> bool:
        """Whether an evaluation follows this step."""
        every = self.options.every
        return bool(every) and step % (every * max(1, self.stretch)) == 0

    def evaluate(self, trainer: Trainer) -> tuple[dict[str, Any], Verdict]:
        """Measure the networks; return the line for the metrics and the verdict."""
        health_scores = self._health_scores(trainer)
        start = time.monotonic()
        networks = (trainer.generator, trainer.generator_ema, trainer.discriminator)
        measured: dict[str, Any] = health_scores(*networks, trainer.latent)
        means = self.means.take()
        measured |= {name: value for name in _MEANS if (value := means.get(name)) is not None}
        if (real := means.get("score_real")) is not None and (fake := means.get("score_fake")) is not None:
            measured["margin"] = real - fake
        if isinstance(ddfn := trainer.conditions.get("ddfn"), DDFN):
            measured |= self._gap(trainer, ddfn)
        measured["singular_values"] = trainer.singular_values()
        measured |= self._not_finite(trainer)
        measured = self.world.broadcast_object(measured)
        shown = {name: measured.pop(name) for name in ("layer_gap",) if name in measured}  # and not judged
        verdict = self.monitor.update(trainer.global_step, **measured)
        if not self.stretch:
            self.stretch = self.world.broadcast_object(self._stretched(time.monotonic() - start))
        self.score = measured.get("frechet_ema")
        if "gap" in measured:
            error = 2 * measured["gap_standard_error"]
            measured |= {"gap_low": measured["gap"] - error, "gap_high": measured["gap"] + error}
        return measured | shown | {"verdict": verdict.state, "reasons": list(verdict.reasons)}, verdict

    def fault(self, step: int, what: str) -> Verdict:
        """Judge a loss or a gradient that was not finite."""
        self.score = None
        return self.monitor.update(step, not_finite=what)

    def changes(self, verdict: Verdict) -> list[dict[str, Any]]:
        """Return an event where the verdict is not the one before, else none."""
        before, self._state = self._state, verdict.state
        if verdict.state == before:
            return []
        kind = "recovered" if verdict.state == "healthy" else verdict.state
        event: dict[str, Any] = {
            "step": verdict.step,
            "event": kind,
            "reason": ". ".join(each[:1].upper() + each[1:] for each in verdict.reasons),
        }
        if kind == "collapsed":
            event |= {"onset": verdict.onset, "extreme": verdict.extreme, "best_step": verdict.best_step}
        return [event]

    def sound(self) -> bool:
        """Whether the newest evaluation had nothing against the run."""
        return self.monitor.verdict().unsuspected

    def trusted(self) -> int | None:
        """Return the last step that later evaluations found healthy, 0 for none yet, None without evaluations."""
        return (self.monitor.verdict().healthy_step or 0) if self.options.every else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the monitor and the means, and the newest score."""
        state = {"monitor": self.monitor.state_dict(), "means": self.means.state_dict()}
        return state | {"stretch": self.stretch, "score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.monitor.load_state_dict(state["monitor"])
        self.means.load_state_dict(state["means"])
        self.stretch = int(state["stretch"])
        self.score = state["score"]
        self._state = self.monitor.verdict().state

    def _health_scores(self, trainer: Trainer) -> HealthScores:
        """Created when first needed: a run that ends before has no use for a classifier."""
        if self._scores is None:
            extractor: Extractor | None = None
            if self.options.classifier and len(self._training.classes) > 1:
                # One process trains it, and the others take it from the cache.
                with Bar("classifier", unit="step", quiet=not self.world.is_main) as bar:
                    options: dict[str, Any] = {"quick": True, "device": self.world.device, "progress": bar}
                    extractor = self.world.in_turn(lambda: open_extractor("classifier", self._training, **options))
                if self._codec.colormap:
                    extractor = _GreyExtractor(extractor, self._codec)
            classes = len(self._training.classes)
            self._scores = HealthScores(
                self._sample(self._training.select(augmented=False)),
                None if self._held_out is None else self._sample(self._held_out),
                extractor=extractor,
                images=max(self.options.images, 2 * classes),
                boundary=trainer.loss.boundary,
                seed=self._config.train.seed,
            )
        return self._scores

    def _sample(self, shards: LabelledImages, most: int = _MOST_REAL) -> tuple[Tensor, Tensor]:
        """Images as D sees them, and labels; at most so many, drawn by the seed."""
        order = np.random.default_rng(self._config.train.seed).permutation(len(shards))[:most]
        return self._codec.apply_colormap(shards.images(order)), torch.from_numpy(shards.labels[order])

    @torch.no_grad()
    def _gap(self, trainer: Trainer, ddfn: DDFN) -> dict[str, float]:
        """The DDFN gap of fixed latents, exact on some of them, and the standard error of as many real images."""
        noise = torch.Generator().manual_seed(self._config.train.seed)
        count = min(self.options.images, 256)
        labels = torch.arange(count, device=self.world.device) % len(self._training.classes)
        z = trainer.latent.sample(count, noise, device=self.world.device)
        generator = copy.deepcopy(trainer.generator)  # batch norm's running statistics move as it runs
        with local_statistics(generator):
            images = torch.cat([generator(a, b) for a, b in zip(z.split(64), labels.split(64), strict=True)])
            layer = self._layer_gap(generator, z[:64], labels[:64]) if self.options.layer else {}
        gap = ddfn.gap(images.float(), labels, subset=min(_EXACT, count)).item()
        return {"gap": gap, "gap_standard_error": ddfn.standard_error(count).item()} | layer

    def _layer_gap(self, generator: nn.Module, z: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean Δ² of a layer's maps less that of real images pooled to their size, both as they are."""
        maps = layer_maps(generator, str(self.options.layer), z, labels).float()
        if self._real_departure is None:
            real, _ = self._sample(self._training.select(augmented=False), most=_MAPS)
            pooled = F.adaptive_avg_pool2d(real, maps.shape[-1])
            self._real_departure = departure_from_normality(pooled, channels="mean").mean().item()
        of_maps = departure_from_normality(maps[: max(1, _MAPS // maps.shape[1])], channels="mean")
        return {"layer_gap": of_maps.mean().item() - self._real_departure}

    def _not_finite(self, trainer: Trainer) -> dict[str, str]:
        """A tensor that a step may not notice: training uses neither running statistics nor the averaged generator."""
        for name in ("generator", "discriminator", "generator_ema"):
            network = getattr(trainer, name)
            for path, value in chain(network.named_parameters(), network.named_buffers()):
                if not value.isfinite().all():
                    return {"not_finite": f"{name}.{path} held a NaN or an infinity"}
        return {}

    def _stretched(self, seconds: float) -> int:
        """How many times less often evaluations must come to stay within their share of the time."""
        if not self.options.budget or len(self._timed) < 2:
            return 1
        step = float(np.median(np.diff(self._timed)))
        share = seconds / max(step * self.options.every, 1e-9)
        return max(1, math.ceil(share / self.options.budget))


class _GreyExtractor:
    """An extractor of grey images, for coloured ones."""

    def __init__(self, extractor: Extractor, codec: Codec) -> None:
        self.extractor, self.codec = extractor, codec
        self.name, self.digest, self.resize = extractor.name, extractor.digest, extractor.resize

    def __call__(self, images: Tensor) -> Extracted:
        return self.extractor(self.codec.invert_colormap(images))
