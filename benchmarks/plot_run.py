"""Draw a run's DDFN gap and losses over its steps, and copy its last grid of samples beside the picture.

python benchmarks/plot_run.py RUN OUT_PREFIX  ->  OUT_PREFIX-curves.png, OUT_PREFIX-grid.png
"""

import argparse
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from schurgan.runs.folder import RunFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("prefix", type=Path)
    args = parser.parse_args()
    rows = RunFolder(args.run).read_records().rows
    step = [row["step"] for row in rows]

    figure = Figure(figsize=(8, 5), layout="constrained")
    gap, loss = figure.subplots(2, 1, sharex=True)
    epsilon, noise = rows[-1]["ddfn_epsilon"], 2 * rows[-1]["ddfn_standard_error"]
    gap.axhspan(-noise, noise, color="0.92", label=f"two standard errors of a real batch ({noise:.0f})")
    gap.axhspan(-epsilon, epsilon, color="0.8", label=f"ε = {epsilon:.1f}")
    gap.plot(step, [row["ddfn_gap"] for row in rows], color="0.55", linewidth=0.8, label="mean of the logged batches")
    gap.plot(step, [row["ddfn_ema_gap"] for row in rows], color="#b5367a", label="moving average (penalised)")
    gap.set_ylabel("DDFN gap, generated − real")
    gap.set_title(f"real mean of Δ² = {rows[-1]['ddfn_real']:.0f}", fontsize="medium")
    gap.legend(fontsize="small", ncols=2)
    loss.plot(step, [row["loss_d"] for row in rows], color="#b5367a", label="discriminator")
    loss.plot(step, [row["loss_g"] for row in rows], color="#3a6ea5", linestyle="--", label="generator")
    loss.set_ylabel("loss")
    loss.set_xlabel("step")
    loss.legend(fontsize="small")
    figure.savefig(f"{args.prefix}-curves.png", dpi=110)
    _, _, newest = RunFolder(args.run).grids()[-1]
    shutil.copy(newest, f"{args.prefix}-grid.png")


if __name__ == "__main__":
    main()
