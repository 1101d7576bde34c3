"""A run's DDFN gap and losses over its steps as a picture, and its last grid of samples beside it.

python benchmarks/plot_run.py RUN OUT_PREFIX  ->  OUT_PREFIX-curves.png, OUT_PREFIX-grid.png. Needs the extra `plot`.
"""

import argparse
import json
import shutil
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("prefix", type=Path)
    args = parser.parse_args()
    rows = [json.loads(line) for line in (args.run / "metrics.jsonl").read_text("utf-8").splitlines()]
    step = [row["step"] for row in rows]

    figure, (gap, loss) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    epsilon, noise = rows[-1]["ddfn_epsilon"], 2 * rows[-1]["ddfn_standard_error"]
    gap.axhspan(-noise, noise, color="0.92", label=f"two standard errors of a real batch ({noise:.0f})")
    gap.axhspan(-epsilon, epsilon, color="0.8", label=f"ε = {epsilon:.1f}")
    gap.plot(step, [row["ddfn_gap"] for row in rows], color="0.55", linewidth=0.8, label="mean of the logged batches")
    gap.plot(step, [row["ddfn_ema_gap"] for row in rows], color="#b5367a", label="running mean (penalised)")
    gap.set_ylabel("DDFN gap, generated − real")
    gap.set_title(f"real mean of Δ² = {rows[-1]['ddfn_real']:.0f}", fontsize="medium")
    gap.legend(fontsize="small", ncols=2)
    loss.plot(step, [row["loss_d"] for row in rows], color="#b5367a", label="discriminator")
    loss.plot(step, [row["loss_g"] for row in rows], color="#3a6ea5", linestyle="--", label="generator")
    loss.set_ylabel("hinge loss")
    loss.set_xlabel("step")
    loss.legend(fontsize="small")
    figure.savefig(f"{args.prefix}-curves.png", dpi=110)
    shutil.copy(sorted((args.run / "samples").glob("step-*.png"))[-1], f"{args.prefix}-grid.png")


if __name__ == "__main__":
    main()
