"""`schurgan compare`: scores of several runs in one table, if they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schurgan.core.errors import UserError
from schurgan.evaluation.scores import Evaluation, Score, difference
from schurgan.evaluation.table import MARK, NAMES, Cells, figure, real_figure, title
from schurgan.runs.folder import RunFolder

_SHOWN = (
    "inception_score",
    "fid",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "accuracy",
    "variety",
    "departure_gap",
    "memorisation",
    "frechet_audio_distance",
    "usefulness_gain",
)


def compare(runs: Sequence[str | Path]) -> Cells:
    """A row for each run and one for real images, a column for each score that all runs have.

    The best of a column is bold, where better is defined. Raises UserError for fewer than two runs, scores that are
    missing or damaged, and runs that cannot be compared, naming what they differ in.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise UserError(f"{len(paths)} run given, two or more are needed to compare")
    found = [Evaluation.load(RunFolder(path).scores if path.is_dir() else path) for path in paths]
    first = found[0].protocol
    for path, each in zip(paths[1:], found[1:], strict=True):
        if differs := difference(first, each.protocol):
            what, ours, theirs = differs
            raise UserError(
                f"{paths[0]} and {path} cannot be compared: {what} is {ours} in the one and {theirs} in the other; "
                "evaluate both in the same way"
            )
    columns = [name for name in _SHOWN if all(_known(each.scores.get(name)) for each in found)]
    head = ("run", "step", *(f"{title(name)}{MARK[found[0].scores[name].higher_is_better]}" for name in columns))
    rows = [
        (str(path), str(each.protocol.step), *(_cell(each.scores[name]) for name in columns))
        for path, each in zip(paths, found, strict=True)
    ]
    floors = [real_figure(name, found[0].scores[name]) for name in columns]
    bold = {
        (row, 2 + column) for column, name in enumerate(columns) for row in _best([each.scores[name] for each in found])
    }
    return Cells(head, (*rows, ("real images", "", *floors)), frozenset(bold))


def legend(runs: Sequence[str | Path]) -> str:
    """How the compared scores were taken: one line under the table."""
    path = Path(runs[0])
    protocol = Evaluation.load(RunFolder(path).scores if path.is_dir() else path).protocol
    truncation = "" if protocol.truncation is None else f", truncation {protocol.truncation:g}"
    return (
        f"{protocol.n_fake} generated images against {protocol.n_real} training images{truncation}, batch norm "
        f"{protocol.batch_norm}, extractor {protocol.extractor} {protocol.extractor_digest[:12]}. ± is over runs of "
        "generated images. Real images: of training images in random halves, or else of held-out ones."
    )


def _known(score: Score | None) -> bool:
    return score is not None and score.value is not None


def _cell(score: Score) -> str:
    return figure(score.value) + (
        f" ± {figure(score.sd, 2)}" if score.sd is not None and "sd_over" not in score.details else ""
    )


def _best(scores: Sequence[Score]) -> list[int]:
    """Which are best; none where nothing says what better is, or all are equal."""
    better, values = scores[0].higher_is_better, [score.value for score in scores if score.value is not None]
    if better is None or len(set(values)) < 2:
        return []
    best = max(values) if better else min(values)
    return [place for place, value in enumerate(values) if value == best]


assert set(_SHOWN) <= set(NAMES)
