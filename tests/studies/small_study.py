"""A study of two rows that takes seconds, on soundscapes, and an extractor that needs no training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.runs.folder import RunFolder
from schurgan.studies.study import Trial
from schurgan.studies.trial import Outcome

EXTRACTOR = "small_study:looks"


def looks(images: Tensor) -> tuple[Tensor, Tensor]:
    """Means of the image's quarters, and eight classes by them."""
    pooled = torch.nn.functional.adaptive_avg_pool2d(images.mean(1), 2).flatten(1)
    return pooled, (4 * torch.cat((pooled, -pooled), 1)).softmax(1)


def small_study(steps: int = 8, **changes: Any) -> dict[str, Any]:
    """What a YAML file of it would hold."""
    here = {"prepare": "schurgan prepare soundscape", "classes": 8, "size": 16}
    laptop = {
        "about": "Tiny.",
        "seeds": 1,
        "images": 48,
        "runs": 2,
        "extractor": EXTRACTOR,
        "options": {
            "preset": "small-32",
            "model": {"architecture": "small-16", "width": 4},
            "train": {
                "steps": steps,
                "batch_size": 8,
                "checkpoint_every": 4,
                "sample_every": 0,
                "log_every": 2,
                "threads": 1,
                "device": "cpu",
            },
            "health": {
                "every": 4,
                "reaction": "warn",
                "budget": 0.0,
                "images": 32,
                "classifier": False,
                "warm_up": 0,
            },
        },
        "parts": {"with": {"ddfn": {"weight": 1.0}}, "without": {"ddfn": {"weight": 0.0}}, "large": {}},
        "leave_out": [],
    }
    return {
        "title": "Two rows",
        "kind": "table",
        "source": "an example",
        "columns": ["best_step", "onset", "extreme", "inception_score", "fid", "worse", "end_variety"],
        "variants": {"linear": {"about": "linear magnitude", "prepare": "--scale linear"}},
        "data": {"set": {"about": "soundscapes", "laptop": here, "gpu": here, "paper": here}},
        "scales": {"laptop": laptop},
        "rows": [
            {
                "name": "a",
                "label": "with",
                "group": "sounds",
                "data": "set",
                "parts": ["with"],
                "paper": {
                    "best_step": {"value": 132000},
                    "fid": {"value": 44.57, "sd": 2.93, "deviations": [-1.67]},
                },
            },
            {"name": "b", "label": "without", "group": "sounds", "data": "set", "parts": ["without"]},
        ],
    } | changes


PROTOCOL = Protocol(
    run="run",
    step=8,
    data="d" * 64,
    held_out_data=None,
    val_folds=(),
    classes=8,
    extractor="own",
    extractor_digest="e" * 64,
    extractor_accuracy=0.9,
    resize="none",
    n_real=48,
    n_held_out=0,
    n_fake=48,
    runs=2,
    truncation=1.0,
    batch_norm="standing",
    weights="moving average",
    seed=0,
    version="0",
    torch="0",
    device="cpu",
    date="2026-01-01T00:00:00Z",
)


def score(
    trial: Trial,
    fid: float,
    inception: float = 2.0,
    snr_db: float = 1.0,
    protocol: Protocol = PROTOCOL,
    **outcome: object,
) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    scores = {
        "fid": Score(fid, sd=0.5, floor=1.25, held_out=1.5),
        "inception_score": Score(inception, sd=0.25, floor=7.0),
        "snr_db": Score(snr_db),
    }
    Evaluation(protocol, scores).save(RunFolder(trial.folder).scores)
    Outcome(**{"state": "finished", "scored_step": 8} | outcome).save(trial.folder)  # type: ignore[arg-type]
