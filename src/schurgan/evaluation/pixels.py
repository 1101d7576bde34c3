"""Scores that need no extractor: how varied, how near to the training images, how far from normal."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from schurgan.evaluation.metrics.neighbours import Memorisation, memorisation, nearest
from schurgan.evaluation.metrics.variety import variety, vendi_score
from schurgan.evaluation.score_images import attempt
from schurgan.evaluation.scores import Counts, Score
from schurgan.evaluation.seen import CHUNK, Seen

_HALVINGS = 5
_PAIRS, _LEAST_LOOKED_AT = 5_000_000, 100
"""Pairs of images whose distance is taken, some seconds of them: of many real images fewer generated ones are."""


def spread(seen: Seen) -> float | None:
    """`variety` of the images that were kept; None where no class has two of them, or they are all alike."""
    found, _ = attempt(partial(variety, seen.images, seen.labels[: len(seen.images)]))
    return found or None


def score_variety(real: Seen, held_out: Seen | None, fake: Seen) -> dict[str, Score]:
    """`variety`: mean distance of two images of a class, over that of training images. `vendi_score`: k."""
    scale, made = spread(real), spread(fake) or 0.0
    counts: Counts = {"n_real": len(real.images), "n_fake": len(fake.images)}
    if scale is None:
        why = "no class has two different training images among those looked at"
        return {name: Score(None, flags=(why,), **counts) for name in ("variety", "vendi_score")}
    unseen = spread(held_out) if held_out else None
    within = {"generated_distance": made, "real_distance": scale}
    batch = min(CHUNK, len(real.images), len(fake.images))
    return {
        "variety": Score(
            made / scale, floor=1.0, held_out=unseen / scale if unseen else None, details=within, **counts
        ),
        "vendi_score": Score(
            _kinds(fake.images, batch, scale),
            floor=_kinds(real.images, batch, scale),
            details={"batch": batch, "scale": scale},
            **counts,
        ),
    }


def _kinds(images: Tensor, batch: int, scale: float) -> float:
    """Mean over whole batches: k grows with the batch, so that a smaller one at the end would lower it."""
    whole = len(images) // batch * batch
    return statistics.fmean(vendi_score(part, scale) for part in images[:whole].split(batch))


def score_departure(real: Seen, held_out: Seen | None, fake: Seen, seed: int = 0) -> Score:
    """Mean departure from normality of generated images minus that of training images, what DDFN holds near 0."""
    chance = torch.Generator().manual_seed(seed)
    half, gaps = len(real) // 2, []
    for _ in range(_HALVINGS if half else 0):
        order = torch.randperm(len(real), generator=chance)
        first, second = (real.departures[order[part]].mean() for part in (slice(half), slice(half, 2 * half)))
        gaps.append(abs(first - second).item())
    mean, errors = real.departures.mean(), [x.departures.var() / len(x) for x in (real, fake) if len(x) > 1]
    return Score(
        (fake.departures.mean() - mean).item(),
        floor=statistics.fmean(gaps) if gaps else None,
        held_out=(held_out.departures.mean() - mean).item() if held_out else None,
        n_real=len(real),
        n_fake=len(fake),
        details={
            "real_mean": mean.item(),
            "standard_error": math.sqrt(sum(error.item() for error in errors)),
            "floor_is": "the mean size of the gap between random halves of the training images",
            "measure": "exact, of pixels in [0, 1], mean over channels",
        },
    )


def score_memory(real: Seen, held_out: Seen | None, fake: Seen, seed: int = 0) -> dict[str, Score]:
    """`nearest_training`, known for every run; `memorisation` and `near_copies` where clips were held out."""
    fake = replace(fake, thumbs=fake.thumbs[: max(_LEAST_LOOKED_AT, _PAIRS // len(real))])
    scores = {"nearest_training": _nearest_training(real, held_out, fake)}
    if held_out is None:
        unknown = ("no clip was held out: copies cannot be told from luck, see the distance to training images",)
        nothing = {name: Score(None, flags=unknown) for name in ("memorisation", "near_copies")}
        return scores | nothing
    made = fake.labels[: len(fake.thumbs)]
    judge = partial(memorisation, fake.thumbs, made, real.thumbs, real.labels, held_out.thumbs, held_out.labels)
    found, problem = attempt(partial(judge, seed=seed))
    counts: Counts = {"n_real": len(real), "n_fake": found.count if found else 0}
    flags = (problem,) if problem else ()
    details = {"n_held_out": len(held_out)}
    return scores | {
        "memorisation": Score(
            _of(found, "ratio"), held_out=_of(found, "reference_ratio"), flags=flags, details=details, **counts
        ),
        "near_copies": Score(
            _of(found, "near_copies"),
            held_out=_of(found, "reference_near_copies"),
            higher_is_better=False,
            flags=flags,
            details=details,
            **counts,
        ),
    }


def _of(found: Memorisation | None, name: str) -> float | None:
    value: float | None = getattr(found, name) if found else None
    return value


def _nearest_training(real: Seen, held_out: Seen | None, fake: Seen) -> Score:
    """Median distance to the nearest training image, over that of training images to the nearest other one."""
    if len(real) < 2:
        return Score(None, n_real=len(real), flags=("one training image has no other to compare with",))
    some = real.thumbs[: max(_LEAST_LOOKED_AT, _PAIRS // len(real))]
    usual = nearest(real.thumbs, some, 2).distances[:, 1].median().item()
    if usual == 0:
        return Score(None, n_real=len(real), flags=("most training images have an exact copy among them",))

    def against(seen: Seen) -> float:
        return nearest(real.thumbs, seen.thumbs).distances[:, 0].median().item() / usual

    return Score(
        against(fake),
        floor=1.0,
        held_out=against(held_out) if held_out else None,
        n_real=len(real),
        n_fake=len(fake.thumbs),
        details={"real_distance": usual, "images": "channels' mean, shrunk to 32x32 at most"},
    )
