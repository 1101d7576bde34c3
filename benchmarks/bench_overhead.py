"""Time of a training step that is not spent in the networks: loading, DDFN, conditions, logging, the health monitor.

    python benchmarks/bench_overhead.py --data build/esc10-64 [--preset small-64] [--steps 200]

CPU seconds of this process (every thread's, so that a busy machine changes nothing) in a run with the preset's own
options. "networks" is what remains of a step: forward and backward passes of both, losses, penalties, optimisers.
Each part is timed around its own calls; of parts that run within a step its share of the step is the median over
steps. Logging comes every `log_every` steps and an evaluation every `health.every`, as often as its `budget` lets it:
both are counted in proportion. The classifier is trained once for all runs on the data, and shown by itself; samples
and checkpoints, which come every 500 steps, are shown per step too, and are no part of the sum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from schurgan.data.loader import Prefetch
from schurgan.normality import DDFN, MomentMatching
from schurgan.runs.config import Config
from schurgan.training import train
from schurgan.training.artifacts import Artifacts
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.logger import Logger
from schurgan.training.trainer import Trainer
from schurgan.training.watcher import Watcher

PARTS = {
    "step": (Trainer, "training_step"),
    "ddfn forward": (DDFN, "_penalty"),
    "ddfn and condition backward": (Trainer, "_gradient_at"),
    "condition forward": (MomentMatching, "_penalty"),
    "condition observes": (MomentMatching, "observe"),
    "loading": (Prefetch, "batch"),
    "adding up": (Watcher, "add"),
    "logger adds": (Logger, "add"),
    "log line": (Logger, "log"),
    "evaluation": (Watcher, "evaluate"),
    "classifier": (Watcher, "_health_scores"),
    "checkpoint": (Checkpoints, "save"),
    "generator's file": (Artifacts, "save"),
    "samples": (Artifacts, "show"),
}
IN_STEP = ("ddfn forward", "ddfn and condition backward", "condition forward", "condition observes")
BESIDE = ("loading", "adding up", "logger adds")


def watch_calls(taken: dict[str, list[float]]) -> None:
    """Note the CPU seconds of each call of the parts; within `training_step` as one sum a step."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timing(*given: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*given, **named)
            finally:
                taken[name].append(time.process_time() - began)

        return timing

    for name, (owner, method) in PARTS.items():
        setattr(owner, method, timed(name, getattr(owner, method)))


def per_step(taken: dict[str, list[float]], steps: int, log_every: int, every: int) -> dict[str, float]:
    """Median CPU seconds that a part takes of a step."""
    result: dict[str, float] = {}
    for name in ("step", *IN_STEP, *BESIDE):
        calls = taken[name]
        often = round(len(calls) / steps)
        sums = [sum(calls[i : i + often]) for i in range(0, len(calls), often)] if often else [0.0]
        result[name] = statistics.median(sums)
    result["log line"] = statistics.median(taken["log line"]) / log_every
    result["evaluation"] = statistics.median(taken["evaluation"][1:]) / every
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="small-64")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--evaluations", type=int, default=4, help="how many in that time, to know what one takes")
    arguments = parser.parse_args()
    config = Config.from_preset(arguments.preset)
    own_every, budget = config.health.every, config.health.budget
    often = max(1, arguments.steps // arguments.evaluations)
    update: dict[str, Any] = {
        "steps": arguments.steps,
        "threads": 1,
        "device": "cpu",
        "checkpoint_every": arguments.steps,
    }
    config = config.model_copy(
        update={
            "data": arguments.data,
            "train": config.train.model_copy(update=update),
            "health": config.health.model_copy(update={"every": often, "budget": 0.0, "reaction": "warn"}),
        }
    )
    taken: dict[str, list[float]] = defaultdict(list)
    watch_calls(taken)
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run")
    first = taken["classifier"][0]
    parts = per_step(taken, arguments.steps, config.train.log_every, own_every)
    inside = sum(parts[name] for name in IN_STEP)
    networks = parts["step"] - inside
    # An evaluation that would take more than its budget comes less often.
    parts["evaluation"] = min(parts["evaluation"], budget * parts["step"]) if budget else parts["evaluation"]
    outside = inside + sum(parts[name] for name in (*BESIDE, "log line", "evaluation"))
    print(f"{arguments.preset}, {arguments.steps} steps, CPU milliseconds a step")
    for name, seconds in sorted(parts.items(), key=lambda pair: -pair[1]):
        print(f"{name:28} {1e3 * seconds:9.3f}  {seconds / (networks + outside):7.2%}")
    for name in ("checkpoint", "generator's file", "samples"):
        print(f"{name + ', each time':28} {1e3 * statistics.median(taken[name]):9.1f}")
    print(f"{'classifier and real scores':28} {1e3 * first:9.1f}  once")
    summary = {"networks_ms": 1e3 * networks, "outside_ms": 1e3 * outside, "share": outside / (networks + outside)}
    print(json.dumps({name: round(value, 4) for name, value in summary.items()}))


if __name__ == "__main__":
    main()
