"""What came out of `collapse.py`: a table of the variants, who saw the collapses coming, and a figure of that.

    python benchmarks/collapse_table.py build/collapse build/healthy --figure docs/detection.png

A folder is a regime. A run counts as collapsed when the averaged generator, which is what a user gets, ends at more
than 1.5 times the best Fréchet distance that it had (medians of three evaluations); its onset is the evaluation from
which that never changes again. So the truth is taken from the end of a run, which nobody has while it trains. Every
rule of `schurgan.health` is then replayed over what was measured, alone and together, and the gap of the
departure from normality in three ways. Intervals: Student's t of 95 % over seeds, Wilson's for shares.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from schurgan.evaluation.metrics.intervals import Interval, wilson
from schurgan.health import RULES, Monitor, Rule, Signals
from schurgan.health.rules import Over, OverEarly

BROKEN, EARLIEST = 1.5, 300


@dataclass(frozen=True)
class Run:
    regime: str
    variant: str
    seed: int
    rows: list[dict[str, Any]]
    end: dict[str, float]

    @property
    def onset(self) -> int | None:
        """From where the averaged generator stays bad to the end, None where it does not end bad."""
        values = [row["signals"]["frechet_ema"] for row in self.rows]
        smooth = [statistics.median(values[max(0, i - 1) : i + 2]) for i in range(len(values))]
        limit = BROKEN * min(smooth)
        if smooth[-1] <= limit:
            return None
        good = [i for i, value in enumerate(smooth) if value <= limit]
        return int(self.rows[good[-1] + 1]["step"])

    def fired(self, monitor: Monitor, state: tuple[str, ...] = ("warning", "collapsed")) -> int | None:
        """The step at which the monitor first says so."""
        for row in self.rows:
            if monitor.update(row["step"], **row["signals"]).state in state:
                return int(row["step"])
        return None


@dataclass(frozen=True)
class Gap(Over):
    """The size of the gap, as a share of the real mean."""

    def measured(self, signals: Signals) -> dict[str, float]:
        return {"gap": abs(signals["gap"] or 0.0)}


@dataclass(frozen=True)
class GapGrowth(OverEarly):
    """The size of the gap against what it was in the first evaluations."""

    def measured(self, signals: Signals) -> dict[str, float]:
        return {"gap": abs(signals["gap"] or 0.0)}


@dataclass(frozen=True)
class GapBand(Over):
    """The size of the gap in standard errors."""

    def measured(self, signals: Signals) -> dict[str, float]:
        return {"gap": abs(signals["gap"] or 0.0) / (signals["gap_standard_error"] or 1e-30)}


def watchers() -> dict[str, list[Rule]]:
    """By name, the rules that a monitor looks for: one of ours, several, or one of the gap."""
    alone = ("frechet", "variety", "frechet_extreme", "variety_extreme", "accuracy_d", "gradient_g", "held_out")
    alone += ("variety_batch",)
    result = {name: [RULES[name]] for name in alone}
    result["gradient over 5 x early"] = [replace(RULES["gradient_g"], factor=5.0)]
    result["all that call a collapse"] = [rule for rule in RULES.values() if rule.level != "warning"]
    result["all"] = list(RULES.values())
    result["all but held_out"] = [rule for rule in RULES.values() if rule.name != "held_out"]
    result["DDFN gap over 1.4 x early"] = [GapGrowth("gap", "warning", ("gap",), "", factor=1.4)]
    result["DDFN gap over half of the real mean"] = [Gap("gap", "warning", ("gap",), "", line=0.5)]
    result["DDFN gap out of 3 standard errors"] = [GapBand("gap", "warning", ("gap",), "", line=3.0)]
    return result


def read(folder: Path) -> list[Run]:
    runs = []
    for path in sorted(folder.glob("*.jsonl")):
        *rows, last = map(json.loads, path.read_text().splitlines())
        variant, _, seed = path.stem.rpartition("-")
        runs.append(Run(folder.name, variant.replace("_", " "), int(seed), rows, last["end"]))
    return runs


def show_variants(runs: list[Run]) -> None:
    by_variant: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_variant[run.variant].append(run)
    print("| variant | runs | Fréchet | best | IS | class accuracy | variety | collapsed | onset | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    order = sorted(by_variant, key=lambda name: statistics.mean(run.end["all"] for run in by_variant[name]))
    for name in order:
        group = by_variant[name]
        onsets = [run.onset for run in group if run.onset is not None]
        cells = [
            interval([run.end["all"] for run in group]),
            interval([min(row["signals"]["frechet_ema"] for row in run.rows) for run in group]),
            interval([run.end["inception"] for run in group]),
            f"{statistics.mean(run.end['accuracy'] for run in group):.0%}",
            interval([run.rows[-1]["signals"]["variety"] for run in group]),
            f"{len(onsets)} of {len(group)}",
            f"{min(onsets)} to {max(onsets)}" if onsets else "-",
            f"{statistics.median(run.end['seconds'] for run in group):.0f}",
        ]
        print(f"| {name} | {len(group)} | {' | '.join(cells)} |")


def interval(values: list[float]) -> str:
    if len(values) < 4:  # an interval of so few says nothing
        return " / ".join(f"{value:.2f}" for value in values)
    result = Interval.of(torch.tensor(values))
    return f"{result.mean:.2f} ± {result.high - result.mean:.2f}"


def show_detection(runs: list[Run], patience: int) -> dict[str, tuple[float, float, list[int]]]:
    """By watcher: share of collapses that were seen, share of false alarms, steps ahead of each onset that was seen."""
    bad = [run for run in runs if run.onset is not None]
    good = [run for run in runs if run.onset is None]
    print(f"\n{len(bad)} runs collapsed, {len(good)} did not\n")
    print("| what is watched | collapses seen | before the onset | median steps ahead | false alarms |")
    print("|---|---|---|---|---|")
    result = {}
    for name, rules in watchers().items():
        fired = {id(run): run.fired(Monitor(rules, patience=patience, warm_up=EARLIEST)) for run in runs}
        seen = [run for run in bad if fired[id(run)] is not None]
        ahead = [run.onset - fired[id(run)] for run in seen]  # type: ignore[operator]
        false = sum(fired[id(run)] is not None for run in good)
        early = sum(steps > 0 for steps in ahead)
        lead = f"{statistics.median(ahead):.0f}" if ahead else "-"
        print(
            f"| {name} | {share(len(seen), len(bad))} | {share(early, len(bad))} | {lead} | {share(false, len(good))} |"
        )
        result[name] = (len(seen) / max(1, len(bad)), false / max(1, len(good)), ahead)
    return result


def share(count: int, of: int) -> str:
    if not of:
        return "-"
    low, high = wilson(count, of)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


def draw(result: dict[str, tuple[float, float, list[int]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = list(result)[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 0.34 * len(names) + 1.2), sharey=True, width_ratios=(1, 1.3)
    )
    places = range(len(names))
    left.barh([y + 0.2 for y in places], [result[n][0] for n in names], 0.38, color="0.25", label="collapses seen")
    left.barh([y - 0.2 for y in places], [result[n][1] for n in names], 0.38, color="0.75", label="false alarms")
    left.set(xlim=(0, 1.02), xlabel="share of runs", yticks=list(places), yticklabels=names)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    for y, name in zip(places, names, strict=True):
        ahead = result[name][2]
        right.scatter(ahead, [y] * len(ahead), s=9, color="0.55")
        if ahead:
            right.plot([statistics.median(ahead)] * 2, [y - 0.35, y + 0.35], color="black", lw=2)
    right.axvline(0, color="0.6", lw=0.8)
    right.set(xlabel="steps before the onset, left of 0 after it\n(a dot a collapse, the bar their median)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="what `collapse.py --out` made")
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    everything = []
    for folder in arguments.folders:
        runs = [run for run in read(folder) if math.isfinite(run.end["all"])]
        print(f"\n{folder.name}\n")
        show_variants(runs)
        everything += runs
    result = show_detection(everything, arguments.patience)
    if arguments.figure:
        draw(result, arguments.figure)


if __name__ == "__main__":
    main()
