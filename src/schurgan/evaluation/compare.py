"""`schurgan compare`: scores of several runs in one table, if they can be compared at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schurgan.core.errors import UserError
from schurgan.evaluation.metric_table import METRICS
from schurgan.evaluation.scores import Evaluation, Score, difference
from schurgan.evaluation.table import MARK, Cells, figure, real_figure
from schurgan.runs.folder import RunFolder


def compare(runs: Sequence[str | Path]) -> Cells:
    """Make a table of a row for each run and one for real images, a column for each score that all runs have.

    The best of a column is bold, where better is defined.

    Args:
        runs: folders of runs, or files of scores.

    Raises:
        UserError: fewer than two runs, scores that are missing or damaged, and runs that cannot be compared, with the
            first difference between them.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise UserError(f"{len(paths)} run given, two or more are needed to compare")
    evaluations = [_load(path) for path in paths]
    first = evaluations[0]
    for path, each in zip(paths[1:], evaluations[1:], strict=True):
        if differs := difference(first.protocol, each.protocol):
            what, ours, theirs = differs
            raise UserError(
                f"{paths[0]} and {path} cannot be compared: {what} is {ours} in the one and {theirs} in the other; "
                "evaluate both in the same way"
            )
    scored = {metric.name: [each.scores.get(metric.name) for each in evaluations] for metric in METRICS}
    columns = {
        metric: [score for score in scored[metric.name] if score is not None and score.value is not None]
        for metric in METRICS
        if metric.compared
    }
    columns = {metric: scores for metric, scores in columns.items() if len(scores) == len(paths)}
    head = ("run", "step", *(f"{metric.title}{MARK[metric.higher_is_better]}" for metric in columns))
    rows = [
        (str(path), str(each.protocol.step), *(_cell(scores[row]) for scores in columns.values()))
        for row, (path, each) in enumerate(zip(paths, evaluations, strict=True))
    ]
    real = ("real images", "", *(real_figure(metric.name, scores[0]) for metric, scores in columns.items()))
    bold = {
        (row, 2 + column)
        for column, (metric, scores) in enumerate(columns.items())
        for row in _best(scores, metric.higher_is_better)
    }
    return Cells(head, (*rows, real), frozenset(bold))


def legend(runs: Sequence[str | Path]) -> str:
    """How the compared scores were taken: one line under the table."""
    protocol = _load(Path(runs[0])).protocol
    truncation = "" if protocol.truncation is None else f", truncation {protocol.truncation:g}"
    return (
        f"{protocol.n_fake} generated images against {protocol.n_real} training images{truncation}, batch norm "
        f"{protocol.batch_norm}, extractor {protocol.extractor} {protocol.extractor_digest[:12]}. ± is over runs of "
        "generated images. Real images: of training images in random halves, or else of held-out ones."
    )


def _load(path: Path) -> Evaluation:
    return Evaluation.load(RunFolder(path).scores if path.is_dir() else path)


def _cell(score: Score) -> str:
    over_runs = score.sd is not None and "sd_over" not in score.details
    return figure(score.value) + (f" ± {figure(score.sd, 2)}" if over_runs else "")


def _best(scores: Sequence[Score], higher_is_better: bool | None) -> list[int]:
    """Which are best; none where nothing says what better is, or all are equal."""
    values = [score.value for score in scores if score.value is not None]
    if higher_is_better is None or len(set(values)) < 2:
        return []
    best = max(values) if higher_is_better else min(values)
    return [place for place, value in enumerate(values) if value == best]
