from __future__ import annotations

import base64
import functools
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from PIL import Image

from schurgan.audio import Spectrogram
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.errors import UserError
from schurgan.evaluation.classifier import train_classifier
from schurgan.report import write_report
from schurgan.sampling import load


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
        if tag not in ("meta", "img", "line", "rect", "polyline", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("line", "rect", "polyline"):
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def decoded(source: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(source.partition(";base64,")[2], validate=True))


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """A classifier that hardly learns: what it says is another file's business."""
    monkeypatch.setattr(
        "schurgan.report.train_classifier", functools.partial(train_classifier, epochs=1, least_steps=0)
    )


@pytest.fixture(scope="session")
def reported(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("reported") / "a <b> & c"))
    write_report(run, shown=2, judged=3)
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
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert "$" not in text  # no placeholder is left


def test_names_are_escaped_and_the_options_of_the_run_are_on_the_page(reported):
    page = Page((reported / "report.html").read_text("utf-8"))
    assert "a <b> & c" in page.text
    assert "ladder: small-16" in page.text
    assert "8 classes, 6 steps of training, 16x16 wavelet spectrograms" in page.text


def test_the_verdict_is_the_same_in_the_file_and_on_the_page(reported):
    verdict = json.loads((reported / "classifier.json").read_text())
    assert (verdict["n_train"], verdict["n_test"], verdict["n_generated"]) == (40, 8, 24)
    assert set(verdict["per_class"]) == set(verdict["variety"]) == set(load(reported).classes)
    mean = sum(verdict["per_class"].values()) / 8
    assert verdict["generated_accuracy"] == pytest.approx(mean)  # as many sounds of each class
    made = load(reported).sample("bark", 3, truncation=1.0, seed=1).images
    data = Shards(load(reported).card.data or "")
    real = data.select(classes=["bark"]).images(range(6))
    expected = torch.pdist(made.flatten(1)).mean() / torch.pdist(real.flatten(1)).mean()
    assert verdict["variety"]["bark"] == pytest.approx(expected.item(), rel=1e-5)
    assert f"{verdict['real_accuracy']:.1%}" in (reported / "report.html").read_text("utf-8")


def test_curves_come_from_the_metrics_and_a_line_that_a_kill_cut_in_half_is_left_out(copied_run):
    with open(copied_run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "loss_d"')
    text = write_report(copied_run, shown=1, judged=1).read_text("utf-8")
    curves = re.findall(r'<polyline class="\w" points="([^"]*)"', text)
    assert [len(points.split()) for points in curves] == [3, 3, 3, 3]


@pytest.mark.parametrize("lines", [None, "", '{"step": 2, "loss_d": 1.0}\n'])
def test_a_run_too_short_for_curves_still_has_a_page(copied_run, lines):
    (copied_run / "metrics.jsonl").unlink()
    if lines is not None:
        (copied_run / "metrics.jsonl").write_text(lines)
    assert "Too short a run for curves" in write_report(copied_run, shown=1, judged=1).read_text("utf-8")


def test_the_command_says_where_the_page_is(copied_run, call):
    said = call("report", copied_run)
    assert (said.status, said.out) == (0, f"report: {copied_run / 'report.html'}\n")


def test_a_folder_that_is_no_run_and_a_run_without_a_generator_are_one_sentence(refused, tmp_path):
    assert refused("report", tmp_path / "none") == f"{tmp_path / 'none'}: no such run folder"
    assert "the run has not saved a generator yet" in refused("report", tmp_path)


def test_data_that_is_gone_or_other_now_is_one_sentence_and_nothing_is_written(tiny, copied_run, tmp_path, recordings):
    model = load(copied_run)
    for data, reason in (("gone", "its data folder .*gone is gone"), ("other", "holds other classes")):
        model.card = type(model.card)(**(model.card.__dict__ | {"data": str(tmp_path / data)}))
        model.save(copied_run / "generator.safetensors")
        if data == "other":
            transform = Spectrogram(size=16, channels=1, n_samples=8000)
            prepare(open_source("folder", recordings), tmp_path / "other", transform, workers=1)
        with pytest.raises(UserError, match=reason):
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
    with pytest.raises(UserError, match="was prepared without recordings"):
        write_report(copied_run, shown=1, judged=1)


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
