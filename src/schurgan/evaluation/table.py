"""Scores as a table: on a terminal, as Markdown, as a picture."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from schurgan.audio.pictures import save_png
from schurgan.evaluation.scores import Evaluation, Score

NAMES = {
    "inception_score": "Inception Score",
    "fid": "FID",
    "fid_per_class": "FID, mean of classes",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "class accuracy",
    "variety": "variety, share of real",
    "vendi_score": "kinds in a batch",
    "departure_gap": "Δ² gap",
    "nearest_training": "distance to training, share of real",
    "memorisation": "memorisation ratio",
    "near_copies": "near copies",
    "snr_db": "SNR, borrowed phase, dB",
    "image_distance_db": "image after decoding, dB",
    "frechet_audio_distance": "Fréchet audio distance",
    "louder_lu": "louder than real, LU",
    "clipped": "clipped samples",
    "usefulness_gain": "accuracy gained by adding",
    "classification_accuracy_score": "accuracy when trained on it alone",
}
"""What scores are called, in the order of tables."""
_DRAWN = {"↑ (?=[0-9])": "+", "↓ (?=[0-9])": "-", "↑": "(max)", "↓": "(min)", "–": "-", "Δ": "D", "²": "2"}
"""For what the font that comes with Pillow lacks; an arrow before a number is a sign."""
MARK = {True: " ↑", False: " ↓", None: ""}


@dataclass(frozen=True)
class Cells:
    """A table: its head, its rows, and which cells of them stand out."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()

    def markdown(self) -> str:
        """The first column to the left, the others to the right."""
        lines = [self.head, ("---", *["---:"] * (len(self.head) - 1))]
        for r, row in enumerate(self.rows):
            lines.append(tuple(f"**{text}**" if (r, c) in self.bold else text for c, text in enumerate(row)))
        escaped = (" | ".join(text.replace("|", "\\|") for text in line) for line in lines)
        return "".join(f"| {line} |\n" for line in escaped)

    def save_png(self, path: str | Path) -> None:
        """Atomically, at twice the size of a page for sharp letters. OSError as the file system raises it."""
        save_png(_drawn(self), path)


def figure(value: float | None, digits: int = 4) -> str:
    """So many digits that count, of tiny values two."""
    if value is None:
        return "–"
    return f"{value:.{digits}g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"


def figure_and_spread(value: float, spread: float) -> str:
    """Both, with ± between: to two digits of the spread that count, but no more than four decimals."""
    size = math.floor(math.log10(spread)) if 0 < spread < math.inf else 0
    decimals = min(4, max(0, 1 - size)) if spread else 4
    return f"{value:.{decimals}f} ± {spread:.{decimals}f}"


def real_figure(name: str, score: Score) -> str:
    """What real images reach: the training images' halves, or else the held-out images."""
    if name == "departure_gap" and score.floor is not None:
        return f"±{figure(score.floor)}"  # a size: gaps of real images lie on both sides of 0
    return figure(score.floor if score.floor is not None else score.held_out)


def print_evaluation(evaluation: Evaluation) -> None:
    """For people, on standard output; plain text where that is no terminal."""
    protocol, numbered = evaluation.protocol, dict[str, int]()
    console = Console(highlight=False)
    table = Table("score", box=None, pad_edge=False, header_style="bold")
    for name in ("generated", "±", "matched", "real", "held out"):
        table.add_column(name, justify="right")
    table.add_column("note")
    for name, score in ordered(evaluation.scores):
        marks = [str(numbered.setdefault(flag, len(numbered) + 1)) for flag in score.flags]
        values = (score.value, score.sd, score.matched, score.floor, score.held_out)
        texts = ["" if value is None else figure(value) for value in values]
        texts[1] = "" if score.sd is None else figure(score.sd, 2)
        texts[3] = "" if score.floor is None else real_figure(name, score)
        texts[0] = texts[0] or "–"
        table.add_row(f"{title(name)}{MARK[score.higher_is_better]}", *texts, " ".join(marks))
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    truncation = "" if protocol.truncation is None else f", truncation {protocol.truncation:g}"
    accuracy = protocol.extractor_accuracy
    known = "" if accuracy is None else f" (right on {accuracy:.1%} of unseen real images)"
    print(f"{protocol.run}, step {protocol.step}: {protocol.runs} x {protocol.n_fake} images{truncation}")
    print(f"against {protocol.n_real} training and {protocol.n_held_out} held-out images")
    print(f"extractor {protocol.extractor} {protocol.extractor_digest[:12]}{known}\n", flush=True)
    console.print(table)
    print()
    print("real: training images, by halves where two sets are compared; matched: generated images at as many as those")
    print("held out: unseen real images in place of generated ones; ↑ higher is better, ↓ lower, else as real ones are")
    for flag, number in numbered.items():
        print(f"{number}  {flag}")
    useful = evaluation.scores.get("usefulness_gain")
    for line in useful.details.get("said", ()) if useful else ():
        print(f"usefulness: {line}")
    for note in evaluation.notes:
        print(f"note: {note}")


def drawable(text: str) -> str:
    """What a picture shows of a text: signs and words where its font lacks a letter."""
    for lacking, instead in _DRAWN.items():
        text = re.sub(lacking, instead, text)
    return text


def ordered(scores: dict[str, Score]) -> list[tuple[str, Score]]:
    """Known names in their order, then others."""
    order = {name: place for place, name in enumerate(NAMES)}
    return sorted(scores.items(), key=lambda item: order.get(item[0], len(order)))


def title(name: str) -> str:
    return NAMES.get(name, name)


def _drawn(cells: Cells) -> Image.Image:
    font = ImageFont.load_default(26)
    pad, high = 22, 52
    lines = [tuple(drawable(text) for text in line) for line in (cells.head, *cells.rows)]
    widths = [max(font.getlength(line[c]) for line in lines) + 2 * pad for c in range(len(cells.head))]
    sheet = Image.new("L", (round(sum(widths)) + 2, high * len(lines) + 2), "white")
    pen = ImageDraw.Draw(sheet)
    for r, line in enumerate(lines):
        left, top = 0.0, r * high
        if r % 2 == 0 and r:
            pen.rectangle((0, top, sheet.width, top + high), "#f3f3f3")
        for c, text in enumerate(line):
            strong = r == 0 or (r - 1, c) in cells.bold
            x = left + pad if c == 0 else left + widths[c] - pad - font.getlength(text)
            pen.text((x, top + 11), text, "black", font, stroke_width=1 if strong else 0, stroke_fill="black")
            left += widths[c]
    pen.line((0, high, sheet.width, high), "black", 2)
    return sheet.quantize(8)  # a third of the bytes
