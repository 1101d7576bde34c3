"""What the cells of a study gave, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schurgan.evaluation.metric_table import title
from schurgan.evaluation.scores import Evaluation
from schurgan.runs.folder import RunFolder
from schurgan.studies.outcome import Outcome, read_outcome
from schurgan.studies.study import Cell

STEPS = {"best_step": "best before onset", "onset": "onset", "extreme": "extreme onset"}
ENDS = {"worse": "FID at the end / best", "end_variety": "variety at the end"}


@dataclass(frozen=True)
class Result:
    """What a cell gave: scores where it was scored."""

    cell: Cell
    outcome: Outcome
    evaluation: Evaluation | None

    def value(self, column: str) -> float | None:
        """Of a column, None where it is not known."""
        if column in STEPS:
            return _float(getattr(self.outcome, column))
        if column == "worse":
            return self.outcome.worse
        if column == "end_variety":
            return self.outcome.variety
        score = self.evaluation.scores.get(column) if self.evaluation else None
        return score.value if score else None


def read_results(cells: Sequence[Cell]) -> list[Result]:
    """Of the cells that have an outcome. Raises UserError for damaged files."""
    results = []
    for cell in cells:
        outcome = read_outcome(cell.folder)
        if outcome is not None:
            scored = outcome.scored_step is not None
            results.append(Result(cell, outcome, Evaluation.load(RunFolder(cell.folder).scores) if scored else None))
    return results


def name_column(column: str) -> str:
    return STEPS.get(column) or ENDS.get(column) or title(column)


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
