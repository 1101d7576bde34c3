from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from PIL import Image

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.shards import split
from schurgan.data.sources import open_source
from schurgan.evaluation.features import classifier
from schurgan.evaluation.metric_table import ABOUT
from schurgan.evaluation.scores import Evaluation, Protocol, Score
from schurgan.model import Sounds, load
from schurgan.report import page as page_module
from schurgan.report.page import write_report
from schurgan.runs.folder import RunFolder

DRAWN = ("rect", "path", "use")  # elements of SVG that close themselves, mostly


class Page(HTMLParser):
    """Sources of media, text, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: dict[str, list[str]] = {"img": [], "audio": []}
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in self.sources:
            self.sources[tag].append(given["src"] or "")
        self.links += [str(given[name]) for name in ("href", "src") if name in given]
        if tag not in ("meta", "img", "link", "br", *DRAWN):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in DRAWN:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def decoded(source: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(source.partition(";base64,")[2], validate=True))


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A classifier that hardly learns: what it says is another file's business."""
    monkeypatch.setattr(classifier, "QUICK", {"epochs": 1, "least_steps": 0, "most_steps": 10})
    monkeypatch.setattr(page_module, "_SHOWN", 1)
    monkeypatch.setattr(page_module, "_JUDGED", 1)


@pytest.fixture(scope="session")
def reported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("reported") / "a <b> & c"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page_module, "_SHOWN", 2)
        patched.setattr(page_module, "_JUDGED", 3)
        write_report(run)
    return run


def test_the_page_plays_and_shows_real_and_generated_sounds_of_every_class(reported):
    page = Page((reported / "report.html").read_text("utf-8"))
    assert page.open == []
    assert len(page.sources["img"]) == len(page.sources["audio"]) == 8 * (2 + 2)
    for audio, image in zip(page.sources["audio"], page.sources["img"], strict=True):
        samples, rate = soundfile.read(decoded(audio))
        assert (len(samples), rate) == (8000, 16000)
        assert Image.open(decoded(image)).size == (16, 16)


def test_the_page_needs_no_other_file_and_no_network(reported):
    page = Page((reported / "report.html").read_text("utf-8"))
    assert all(link.startswith("data:") for link in page.links)
    text = re.sub(r"base64,[\w+/=]+", "", (reported / "report.html").read_text("utf-8"))
    assert not re.search(r"https?://|@import|url\((?!#)|<script", text)
    assert "$" not in text  # no placeholder is left


def test_names_are_escaped_and_the_options_of_the_run_are_on_the_page(reported):
    page = Page((reported / "report.html").read_text("utf-8"))
    assert "a <b> & c" in page.text
    assert "architecture: small-16" in page.text
    assert "40 recordings of 8 classes, 6 steps of training, 16x16 wavelet spectrograms" in page.text
    assert "8 of 48 clips, a tenth of each class" in page.text  # are held out


def test_the_verdict_is_the_same_in_the_file_and_on_the_page(reported):
    verdict = json.loads((reported / "classifier.json").read_text())
    assert (verdict["n_train"], verdict["n_test"], verdict["n_generated"]) == (32, 8, 24)
    assert set(verdict["per_class"]) == set(verdict["variety"]) == set(load(reported).classes)
    mean = sum(verdict["per_class"].values()) / 8
    assert verdict["generated_accuracy"] == pytest.approx(mean)  # as many sounds of each class
    made = load(reported).sample("bark", 3, truncation=1.0, seed=1).images
    training, _ = split(Shards(load(reported).card.data or ""))
    real = training.select(classes=["bark"]).images(range(5))
    expected = torch.pdist(made.flatten(1)).mean() / torch.pdist(real.flatten(1)).mean()
    assert verdict["variety"]["bark"] == pytest.approx(expected.item(), rel=1e-5)
    page = Page((reported / "report.html").read_text("utf-8"))
    assert f"{round(verdict['real_accuracy'] * 8)} of 8 recordings" in page.text  # no finer than eight of them allow


def test_the_page_answers_first_and_names_sides_by_what_they_are_not_by_where_they_stand(reported):
    text = re.sub(r"base64,[\w+/=]+", "", (reported / "report.html").read_text("utf-8"))
    questions = re.findall(r"<dt>([^<]*)</dt>", text)
    assert questions == ["How good?", "How varied?", "Copied?", "Healthy?"]
    assert text.index("<dt>") < text.index("<h2>What next") < text.index("<h2>Listen") < text.index("<svg")
    top = Page(text[: text.index("<h2>What happened")]).text
    assert not re.search(r"(?i)\b(left|right)\b", top[top.index("Schurgan:", 20) :])
    assert text.count("<p>recordings</p>") == text.count("<p>generated sounds</p>") == 8


def test_copies_are_at_no_distance_from_what_was_learned_and_recordings_at_that_of_each_other(finished_run):
    model = load(finished_run)
    shards = model.open_data()

    def distance(images: torch.Tensor) -> float | None:
        made, held_out = page_module._nearest_training(model, shards, shards, [Sounds("bark", None, images, None)])
        assert held_out == 0.0  # of what is not held out at all
        return made

    images = shards.images(range(48))
    assert distance(images[:6]) == 0.0
    assert distance(torch.rand(6, 1, 16, 16) * 2 - 1) > 1
    others = (images[:, None] - images).flatten(2).norm(dim=2).fill_diagonal_(torch.inf).min(1).values
    nearest = images + 0.5 * (images[others.argmin()] - images)  # half-way to another
    assert 0 < distance(nearest) < 1.5


def test_curves_come_from_the_metrics_and_a_line_that_a_kill_cut_in_half_is_left_out(copied_run):
    with open(copied_run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "loss_d"')
    text = write_report(copied_run).read_text("utf-8")
    curves = [path for path in re.findall(r'<path d="([^"]*)" clip-path', text) if path.count("L") == 2]
    assert len(curves) >= 4  # of three points each: gap of a batch and its mean, both losses


@pytest.mark.parametrize("lines", [None, "", '{"step": 2, "loss_d": 1.0}\n'])
def test_a_run_too_short_for_curves_still_has_a_page(copied_run, lines):
    (copied_run / "metrics.jsonl").unlink()
    if lines is not None:
        (copied_run / "metrics.jsonl").write_text(lines)
    assert "Too short a run for curves" in write_report(copied_run).read_text("utf-8")


def test_the_bound_of_7_is_told_with_how_far_real_images_are_from_its_curve(copied_run):
    text = write_report(copied_run).read_text("utf-8")
    bound, residual = re.search(r"Bound \(7\) of the paper: (\S+), .* are (\S+) away", text).groups()
    values = RunFolder(copied_run).read_records().rows[-1].values
    assert float(bound) == pytest.approx(values["ddfn_interpolation_bound"], rel=1e-3)
    assert float(residual) == pytest.approx(values["ddfn_interpolation_residual"], rel=1e-3)


def row(step: int, attempt: int = 0, **more: object) -> dict[str, object]:
    gap = {"ddfn_gap": 10.0, "ddfn_ema_gap": 5.0, "ddfn_epsilon": 37.0, "ddfn_standard_error": 4.0}
    return {"step": step, "attempt": attempt, "loss_d": 1.0, "loss_g": 0.5} | gap | more


def health(step: int, attempt: int = 0, **more: object) -> dict[str, object]:
    scores = {"frechet": 12.0, "frechet_ema": 9.0, "variety": 0.9, "verdict": "healthy"}
    return {"step": step, "attempt": attempt, "health": scores | more}


@pytest.fixture
def died(tmp_path: Path) -> Callable[..., Path]:
    """`died(lines)`: a run with these lines of metrics and no generator."""

    def make(lines: list[dict[str, object]]) -> Path:
        run = tmp_path / "died"
        run.mkdir()
        (run / "config.yaml").write_text("preset: small-32\ntrain: {steps: 100, log_every: 25}\n")
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    return make


COLLAPSED = {"step": 90, "event": "collapsed", "onset": 60, "extreme": 80, "reason": "variety fell to <0.3>", "time": 0}


def test_a_run_that_died_before_its_first_checkpoint_has_a_page_of_curves_and_events(died):
    run = died([row(25), row(50), {"step": 55, "event": "not_finite", "reason": "generator.stem gave NaN first"}])
    page = Page(write_report(run).read_text("utf-8"))
    assert page.open == []
    assert "has not saved a generator yet" in page.text
    assert "Step 55 of 100, running." in page.text
    assert "Step 55: not a finite number. Generator.stem gave NaN first" in page.text
    assert page.sources == {"img": [], "audio": []}
    assert not (run / "classifier.json").exists()


def chart(text: str, label: str) -> str:
    """The chart of the page that shows this."""
    return next(svg for svg in re.findall(r"(?s)<svg.*?</svg>", text) if f'aria-label="{label} over steps"' in svg)


def test_arrows_stand_where_a_collapse_began_and_was_past_recovery_and_the_page_says_so(died):
    lines = [row(25), row(50), row(75), row(90), health(50), COLLAPSED]
    text = write_report(died([*lines, health(90, verdict="collapsed", onset=60)])).read_text("utf-8")
    for figure in (chart(text, "variety"), chart(text, "DDFN gap")):
        assert figure.lower().count("variety fell to &lt;0.3&gt;") == 2
    assert "An arrow" in text[: text.index("<svg")]
    assert [chart(text, "DDFN gap").count(f">{name}</text>") for name in ("±ε", "±2 standard errors")] == [1, 1]


def test_what_a_rollback_gave_up_is_faint_and_the_attempt_after_it_a_curve_of_its_own(died):
    back = {"step": 75, "event": "rollback", "to": 25, "reason": "attempt 1 goes on from step 25"}
    lines = [row(25), row(50), row(75), back, row(40, 1), row(65, 1), row(90, 1)]
    text = write_report(died(lines)).read_text("utf-8")
    assert len(re.findall(r"<title>[^<]*rolled back", chart(text, "loss"))) == 1
    figure = chart(text, "DDFN gap")
    faint = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="[^"]*stroke-opacity: 0.5', figure)
    assert [path.count("L") for path in faint] == [2, 2]  # of both curves, from step 25 over 50 to 75
    assert "Step 75: rolled back, on with the state of step 25. Attempt 1 goes on from step 25" in Page(text).text


@pytest.mark.parametrize(
    "lines",
    [
        [row(25), row(50)],
        [{"step": 25, "loss_d": None}, {"step": 50, "loss_d": 2.0}],
        [row(25), row(50), health(50)],
        [row(25), row(50), {"step": 50, "attempt": 0, "health": {}}],
        [COLLAPSED],
        [health(25), health(50, frechet=-1.0, variety=None)],
        [row(25, gradient_g=0.0), row(50, gradient_g=1e-300), row(75, gradient_g=1e300)],
        [row(25, gradient_g=1.7e308), row(50, gradient_g=1.7e308), {"step": 60, "event": "unheard_of", "time": 1e30}],
    ],
)
def test_a_page_is_whole_whatever_the_run_has_logged(died, lines):
    text = write_report(died(lines)).read_text("utf-8")
    assert Page(text).open == []
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"(?s)<svg.*?</svg>", text)))


def test_the_last_verdict_and_every_event_with_its_time_are_on_the_page_escaped(died):
    late = health(90, verdict="collapsed", reasons=["variety 0.2"])
    text = write_report(died([row(25), row(50), health(50), COLLAPSED, late])).read_text("utf-8")
    (healthy,) = re.findall(r'<div class="answer bad">.*?</div>', text)
    assert "step 90: variety 0.2" in healthy
    assert '<li class="bad">Step 90: collapsed, began at step 60. Variety fell to &lt;0.3&gt;' in text
    assert "1970-01-01 00:00 UTC" in text


def test_thousands_of_events_do_not_drown_the_page(died):
    lines = [{"step": step, "event": "warning"} for step in range(1000)]
    page = Page(write_report(died(lines)).read_text("utf-8"))
    assert page.text.count(": warning") == 200
    assert "800 events before these" in page.text


def test_scores_are_a_table_with_their_floor_and_protocol(died):
    run = died([row(25), row(50)])
    texts = {
        "run",
        "data",
        "extractor_digest",
        "resize",
        "batch_norm",
        "weights",
        "version",
        "torch",
        "device",
        "date",
    } | {"held_out"}
    protocol = dict.fromkeys((field.name for field in fields(Protocol)), 500) | dict.fromkeys(texts, "500")
    protocol |= {"extractor": "a&b", "held_out_data": None, "val_folds": (3,)}
    scores = {"fid": Score(8.21, floor=1.2), "<recall>": Score(None)}
    Evaluation(Protocol(**protocol), scores).save(run / "scores.json")
    text = write_report(run).read_text("utf-8")
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", text)
    assert cells == ["8.21", "", "", "1.2", "", "&lt;recall&gt;", "–", "", "", "", ""]
    assert f"<td>FID<small>{ABOUT['fid']}.</small></td>" in text
    assert "extractor a&amp;b" in text
    assert "500 generated images" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"scores": []}', '{"scores": {}}', "{" * 100_000])
def test_scores_of_another_shape_are_left_out(died, content):
    run = died([row(25), row(50)])
    (run / "scores.json").write_text(content)
    assert "<h2>Scores</h2>" not in write_report(run).read_text("utf-8")


def test_a_long_run_is_a_small_page(died):
    page = write_report(died([row(step, ddfn_gap=float(step % 7)) for step in range(1, 20001)]))
    assert page.stat().st_size < 300_000


def test_the_command_says_where_the_page_is(copied_run, call):
    said = call("report", copied_run)
    assert (said.status, said.out) == (0, f"report: {copied_run / 'report.html'}\n")


def test_a_folder_that_is_no_run_and_a_run_without_a_generator_are_one_sentence(refused, tmp_path):
    assert refused("report", tmp_path / "none").startswith(f"{tmp_path / 'none'}: ")
    assert refused("report", tmp_path).startswith(f"{tmp_path}")


def test_data_that_is_gone_or_other_now_is_one_sentence_and_nothing_is_written(tiny, copied_run, tmp_path, recordings):
    model = load(copied_run)
    for data, reason in (("gone", "/gone "), ("other", "/other: ")):
        model.card = type(model.card)(**(model.card.__dict__ | {"data": str(tmp_path / data)}))
        model.save(copied_run / "generator.safetensors")
        if data == "other":
            transform = Spectrogram(size=16, channels=1, n_samples=8000)
            prepare(open_source("folder", recordings), tmp_path / "other", transform, workers=1)
        with pytest.raises(SchurganError, match=reason):
            write_report(copied_run)
    assert not (copied_run / "report.html").exists()
    assert not (copied_run / "classifier.json").exists()


def test_data_without_recordings_is_one_sentence(copied_run, tmp_path):
    source = open_source("soundscape", per_class=6, seconds=0.5)
    transform = Spectrogram(size=16, channels=1, n_samples=8000)
    prepare(source, tmp_path / "silent", transform, workers=1, keep_audio=False)
    model = load(copied_run)
    model.card = type(model.card)(**(model.card.__dict__ | {"data": str(tmp_path / "silent")}))
    model.save(copied_run / "generator.safetensors")
    with pytest.raises(SchurganError, match="silent: "):
        write_report(copied_run)


def test_a_full_disk_is_one_sentence_and_leaves_no_half_page(copied_run, refused, full_disk):
    with full_disk(after=1):
        sentence = refused("report", copied_run)
    assert sentence == f"{copied_run / 'report.html'}: cannot be written (No space left on device)"
    assert not (copied_run / "report.html").exists()
    assert not list(copied_run.glob(".*"))


def test_the_run_is_read_from_its_folder_and_changed_in_nothing_else(reported, finished_run):
    assert (reported / "generator.safetensors").read_bytes() == (finished_run / "generator.safetensors").read_bytes()
    assert yaml.safe_load((reported / "config.yaml").read_text()) == yaml.safe_load(
        (finished_run / "config.yaml").read_text()
    )
    added = {path.name for path in reported.iterdir()} - {path.name for path in finished_run.iterdir()}
    assert added == {"report.html", "classifier.json"}
