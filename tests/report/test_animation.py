from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schurgan.core.errors import SchurganError
from schurgan.report import animation
from schurgan.report.animation import animate


def write_grid(run: Path, name: str, colour: tuple[int, int, int], size: tuple[int, int] = (66, 41)) -> None:
    (run / "samples").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(run / "samples" / f"{name}.png")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three grids of red, green and blue, one of them of a second attempt."""
    run = tmp_path / "run"
    write_grid(run, "step-00000500", (200, 0, 0))
    write_grid(run, "step-00001000", (0, 200, 0))
    write_grid(run, "step-00000750-a1", (0, 0, 200))
    (run / "samples" / "step-00000500").mkdir()  # sounds lie here
    return run


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(np.asarray(film.convert("RGB")).astype(int))
    return found


def test_frames_come_in_the_order_of_attempts_and_steps_in_their_colours(run):
    path = animate(run)
    assert path == run / "samples.gif"
    middles = [frame[20, 33] for frame in frames(path)]
    for seen, colour in zip(middles, [(200, 0, 0), (0, 200, 0), (0, 0, 200)], strict=True):
        assert np.abs(seen - colour).max() <= 4  # the palette is fitted with six bits a channel


def test_the_step_is_written_under_the_grid_which_stays_as_it_is(run):
    seen = frames(animate(run))
    assert all((frame[:41, :66] == frame[0, 0]).all() for frame in seen)
    strips = [frame[41:] for frame in seen]
    for strip in strips:
        assert (strip >= 250).all(2).mean() > 0.5  # white, to the palette's six bits
        assert (strip < 100).all(2).sum() > 30  # letters
    assert (strips[0] != strips[1]).any()  # another number


def test_the_last_frame_is_held_and_the_others_last_as_fps_says(run):
    with Image.open(animate(run, fps=4)) as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info["duration"])
        assert film.info["loop"] == 0
    assert durations == [250, 250, 2250]


def test_the_same_grids_give_the_same_bytes(run, tmp_path):
    assert animate(run).read_bytes() == animate(run, tmp_path / "deep" / "film.gif").read_bytes()


def test_of_many_grids_as_many_as_fit_are_taken_with_the_first_and_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "MOST_FRAMES", 4)
    for step in range(1, 11):
        write_grid(tmp_path, f"step-{step:08d}", (20 * step, 20 * step, 20 * step))
    greys = [frame[0, 0, 0] for frame in frames(animate(tmp_path))]
    assert greys == pytest.approx([20, 80, 140, 200], abs=3)


def test_large_grids_are_made_smaller_until_all_frames_fit_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "MOST_PIXELS", 20_000)
    for step in (1, 2):
        write_grid(tmp_path, f"step-{step:08d}", (9, 99, 199), (400, 200))
    with Image.open(animate(tmp_path)) as film:
        width, height = film.size
    assert width * (height - 18) == pytest.approx(10_000, rel=0.03)
    assert width / (height - 18) == pytest.approx(2, rel=0.03)
    assert width % 2 == height % 2 == 0


def test_grids_of_an_older_version_without_names_keep_their_pictures_in_place(tmp_path):
    write_grid(tmp_path, "step-00000050", (200, 0, 0), (66, 40))
    write_grid(tmp_path, "step-00000100", (0, 200, 0), (96, 40))
    old, new = frames(animate(tmp_path))
    assert old.shape == new.shape
    assert (old[:40, :30] >= 250).all()  # white where the others have names
    assert np.abs(old[:40, 30:] - (200, 0, 0)).max() <= 4
    assert np.abs(new[:40] - (0, 200, 0)).max() <= 4


def test_one_grid_is_a_picture_and_what_is_no_picture_is_left_out(tmp_path):
    write_grid(tmp_path, "step-00000001", (1, 2, 3))
    (tmp_path / "samples" / "step-00000002.png").write_bytes(b"\x89PNG half")
    (tmp_path / "samples" / "step-best.png").write_bytes(b"")
    assert len(frames(animate(tmp_path))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"run": "none"}, "^none: "),
        ({"run": "begun"}, "samples: .*train.sample_every"),
        ({"run": "run", "out": "film.webm"}, "^out: film.webm "),
        ({"run": "run", "fps": 0.0}, "^fps: 0 "),
        ({"run": "run", "fps": float("nan")}, "^fps: nan "),
        ({"run": "damaged"}, "samples: none of its 1 "),
        ({"run": "run", "out": "film.mp4"}, "^out: film.mp4 .*ffmpeg"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(run, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "damaged" / "samples").mkdir(parents=True)
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "damaged" / "samples" / "step-00000001.png").write_bytes(b"no")
    with pytest.raises(SchurganError, match=sentence):
        animate(**arguments)
    assert not list(tmp_path.glob("film*"))


def test_a_full_disk_is_one_sentence_and_leaves_no_half_film(run, full_disk):
    with full_disk(), pytest.raises(SchurganError, match=r"samples.gif: cannot be written \(No space left on device\)"):
        animate(run)
    assert not list(run.glob("*.gif"))
    assert not list(run.glob(".*"))


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A program of this name that notes its arguments and what it was fed, and does as `script` goes on."""

    def install(script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "ffmpeg"
        noting = f"open({str(folder / 'given')!r}, 'wb').write(sys.stdin.buffer.read())"
        noting += f"\njson.dump(sys.argv, open({str(folder / 'argv')!r}, 'w'))"
        program.write_text(f"#!{sys.executable}\nimport json, sys, time\n{noting}\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return install


def test_ffmpeg_is_fed_every_frame_and_its_film_put_in_place(run, tmp_path, ffmpeg):
    noted = ffmpeg("open(sys.argv[-1], 'wb').write(b'film')")
    out = animate(run, tmp_path / "film.mp4", fps=5)
    assert out.read_bytes() == b"film"
    given = json.loads((noted / "argv").read_text())
    width, height = map(int, given[given.index("-s") + 1].split("x"))
    assert (width % 2, height % 2) == (0, 0)
    assert given[given.index("-r") + 1] == "5"
    pixels = np.frombuffer((noted / "given").read_bytes(), np.uint8).reshape(-1, height, width, 3)
    assert len(pixels) == 3 + 10  # the last is held for two seconds
    assert [tuple(frame[0, 0]) for frame in pixels[:4]] == [(200, 0, 0), (0, 200, 0), (0, 0, 200), (0, 0, 200)]


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("sys.stderr.write('a\\nno encoder\\n'); sys.exit(1)", "film.mp4: .*no encoder"),
        ("", "film.mp4: "),
        ("time.sleep(60)", "film.mp4: .* 1 s "),
    ],
)
def test_an_ffmpeg_that_fails_or_hangs_is_one_sentence_and_no_film(
    run, tmp_path, ffmpeg, monkeypatch, script, sentence
):
    monkeypatch.setattr(animation, "_FFMPEG_SECONDS", 1)
    ffmpeg(script)
    with pytest.raises(SchurganError, match=sentence):
        animate(run, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()
