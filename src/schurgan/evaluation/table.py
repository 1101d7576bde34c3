"""Scores as tables, of one run or of several (`schurgan compare`): on a terminal, as Markdown, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from schurgan.core.errors import SchurganError
from schurgan.evaluation.metric_table import BY_NAME, METRICS, glossary, title
from schurgan.evaluation.scores import Evaluation, Protocol, Score, difference
from schurgan.runs.folder import RunFolder
from schurgan.runs.messages import counted

MARK = {True: " ↑", False: " ↓", None: ""}
COLUMNS = ("generated", "±", "matched", "real", "held out")
"""Columns of a table of one run, after that of titles."""
LEGEND = {
    "±": "deviation over sets of generated images",
    "matched": "generated images, as many as were taken for the column real: compare these two",
    "real": "training images, by halves where two sets are compared: the best there is",
    "held out": "real images that were not learned from, in place of generated ones: what to hope for",
    "↑, ↓": "higher is better, lower is better; with neither, as real images are",
}


@dataclass(frozen=True)
class Cells:
    """A table: its head, its rows, and which cells of them stand out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        """Write as Markdown, the first column to the left, the others to the right."""
        lines = [self.head, ("---", *["---:"] * (len(self.head) - 1))]
        for r, row in enumerate(self.rows):
            lines.append(tuple(f"**{text}**" if (r, c) in self.bold else text for c, text in enumerate(row)))
        escaped = (" | ".join(text.replace("|", "\\|") for text in line) for line in lines)
        return "".join(f"| {line} |\n" for line in escaped)

    def save_png(self, path: str | Path) -> None:
        """Draw the table. Raises OSError as the file system does."""
        from schurgan.evaluation.figures import save_table_figure

        save_table_figure(self.head, self.rows, self.bold, Path(path))


def figure(value: float | None, digits: int = 4) -> str:
    """Write a value with so many significant digits, a tiny one with two."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"


def score_figure(name: str, value: float | None) -> str:
    """Write a value of a metric, with its other reading, where there is one, in brackets."""
    metric = BY_NAME.get(name)
    if value is None or metric is None or metric.other_reading is None:
        return figure(value)
    return f"{figure(value)} ({figure(value * metric.other_reading)})"


def figure_and_spread(value: float, spread: float) -> str:
    """Write both with ± between, to two significant digits of the spread, but no more than four decimals."""
    size = math.floor(math.log10(spread)) if 0 < spread < math.inf else 0
    decimals = min(4, max(0, 1 - size)) if spread else 4
    return f"{value:.{decimals}f} ± {spread:.{decimals}f}"


def real_figure(name: str, score: Score) -> str:
    """What real images reach: the floor, or else the held-out images."""
    if score.floor is not None and name in BY_NAME and BY_NAME[name].floor_is_gap:
        return f"±{figure(score.floor)}"
    return score_figure(name, score.floor if score.floor is not None else score.held_out)


def score_cells(name: str, score: Score) -> tuple[str, ...]:
    """Write a score for a table of one run: its title with the way that is better, and a cell for each of `COLUMNS`."""
    cells = ["" if each is None else score_figure(name, each) for each in (score.value, score.matched, score.held_out)]
    spread = "" if score.sd is None else figure(score.sd, 2)
    floor = "" if score.floor is None else real_figure(name, score)
    return f"{title(name)}{MARK[score.higher_is_better]}", cells[0] or "–", spread, cells[1], floor, cells[2]


def describe_protocol(protocol: Protocol) -> str:
    """Say what was scored, against what, and by what."""
    times = "" if protocol.runs == 1 else f"{protocol.runs} times "
    fake, real = counted(protocol.n_fake, "generated image"), counted(protocol.n_real, "training image")
    truncation = "" if protocol.truncation is None else f", truncation {protocol.truncation:g}"
    held_out = f" ({protocol.held_out})" if protocol.held_out else ""
    accuracy = protocol.extractor_accuracy
    known = "" if accuracy is None else f" (right on {accuracy:.1%} of unseen real images)"
    return (
        f"{times}{fake} against {real} and {counted(protocol.n_held_out, 'held-out image')}{held_out}{truncation}, "
        f"batch norm {protocol.batch_norm}, extractor {protocol.extractor}{known}"
    )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print for people, as plain text where standard output is no terminal."""
    numbered, rows = dict[str, int](), ordered(evaluation.scores)
    table = Table("score", box=None, pad_edge=False, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("note")
    for name, score in rows:
        marks = [str(numbered.setdefault(flag, len(numbered) + 1)) for flag in score.flags]
        table.add_row(*score_cells(name, score), " ".join(marks))
    protocol = evaluation.protocol
    print(f"{protocol.run}, step {protocol.step}: {describe_protocol(protocol)}\n", flush=True)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    with console.capture() as text:  # rich would end the program where a pipe is closed
        console.print(table)
    print(text.get())
    print("\n".join(f"{name}: {meaning}" for name, meaning in LEGEND.items()))
    for flag, number in numbered.items():
        print(f"{number}  {flag}")
    print("", *glossary(name for name, _ in rows), sep="\n")
    utility = evaluation.scores.get("augmentation_utility")
    for line in utility.details.get("lines", ()) if utility else ():
        print(f"usefulness: {line}")
    for note in evaluation.notes:
        print(f"note: {note}")


def ordered(scores: dict[str, Score]) -> list[tuple[str, Score]]:
    """Scores in the order of the table of metrics, then others."""
    order = {name: place for place, name in enumerate(BY_NAME)}
    return sorted(scores.items(), key=lambda item: order.get(item[0], len(order)))


def compare(runs: Sequence[str | Path]) -> Cells:
    """Make a table of a row for each run and one for real images, a column for each score that all runs have.

    The best of a column is bold, where better is defined. Runs are folders, or files of scores.

    Raises SchurganError for fewer than two runs, missing or damaged scores, and runs that cannot be compared, with
    their first difference.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise SchurganError(f"{counted(len(paths), 'run')} given, two or more are needed to compare")
    evaluations = [_load(path) for path in paths]
    first = evaluations[0]
    for path, each in zip(paths[1:], evaluations[1:], strict=True):
        if differs := difference(first.protocol, each.protocol):
            raise SchurganError(f"{paths[0]} and {path} cannot be compared: {differs}; evaluate both in the same way")
    columns = {}
    for metric in (metric for metric in METRICS if metric.compared):
        scores = [score for each in evaluations if (score := each.scores.get(metric.name)) and score.value is not None]
        if len(scores) == len(paths):
            columns[metric] = scores
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
    """How the compared scores were taken, and what each is: a list in Markdown under the table."""
    evaluation = _load(Path(runs[0]))
    lines = [describe_protocol(evaluation.protocol), "±: over sets of generated images"]
    lines.append("real images: training images in random halves, or else held-out ones")
    lines += glossary(metric.name for metric in METRICS if metric.compared and metric.name in evaluation.scores)
    return "\n".join(f"- {line}" for line in lines)


def _load(path: Path) -> Evaluation:
    if path.is_file() and path.suffix == ".json":
        return Evaluation.load(path)
    if not (scores := RunFolder(path).scores).exists():
        RunFolder(path).require()
    return Evaluation.load(scores)


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
