from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compared_runs import assert_same_run, contents, equal, rows, state
from watched_runs import events

from schurgan.audio import Spectrogram
from schurgan.core.errors import Interrupted, SchurganError
from schurgan.data import Shards, prepare
from schurgan.data.sources import open_source
from schurgan.networks import standing_statistics
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training import artifacts, resume, train
from schurgan.training import run as loop
from schurgan.training.artifacts import Artifacts
from schurgan.training.losses import Hinge
from schurgan.training.trainer import Trainer


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """As if SIGTERM came during step `step` of the next run, once."""
    asked: list[int] = []
    training_step = Trainer.training_step

    def count(trainer: Trainer, batches: Any) -> Any:
        metrics = training_step(trainer, batches)
        if trainer.global_step == step:
            asked.append(signal.SIGTERM)
        return metrics

    @contextlib.contextmanager
    def requests(answer: str) -> Iterator[list[int]]:
        yield asked
        asked.clear()

    monkeypatch.setattr(Trainer, "training_step", count)
    monkeypatch.setattr(loop, "stop_requests", requests)


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_when(process: subprocess.Popen[str], happened: Callable[[], bool], delay: float) -> None:
    wait_for(process, happened)
    time.sleep(delay)
    assert process.poll() is None, "it ended before it could be killed: more steps are needed"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_a_run_leaves_what_its_folder_promises(finished_run):
    assert [row["step"] for row in rows(finished_run)] == [2, 4, 6]
    names = {path.name for path in finished_run.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "generator.safetensors", "checkpoints", "samples"}
    checkpoints = [path.name for path in sorted((finished_run / "checkpoints").glob("*.pt"))]
    assert checkpoints == ["step-00000003.pt", "step-00000006.pt"]
    assert (finished_run / "samples" / "step-00000006.png").exists()
    assert (finished_run / "samples" / "step-00000006" / "bark-000.wav").exists()
    assert Config.load(finished_run / "config.yaml").train.steps == 6
    started, *_ = RunFolder(finished_run).read_records().events
    assert "8 of 48 clips" in started.reason  # are held out


def test_the_same_options_give_the_same_run_and_another_seed_another(finished_run, tiny, tmp_path):
    assert_same_run(train(tiny(), tmp_path / "again"), finished_run)
    other = train(tiny(seed=1), tmp_path / "other")
    assert (other / "generator.safetensors").read_bytes() != (finished_run / "generator.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("every", "due"),
    [
        (500, [50, 100, 200, 400, 500, 1000, 1500, 2000]),
        (400, [50, 100, 200, 400, 800, 1200, 1600, 2000]),
        (0, []),
        (900, [50, 100, 200, 400, 800, 900, 1800]),
    ],
)
def test_the_first_samples_come_early_and_ever_more_rarely_until_they_come_regularly(tiny, every, due):
    images = Shards(tiny().data)
    made = Artifacts(Path("none"), tiny(sample_every=every), images, images.codec)
    assert [step for step in range(1, 2001) if made.due(step)] == due


def test_early_samples_hold_a_grid_and_a_sound_of_each_class(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_FIRST", 1)
    samples = RunFolder(train(tiny(steps=2), tmp_path / "run")).samples
    steps = ["step-00000001", "step-00000002"]
    assert sorted(path.stem for path in samples.glob("*.png")) == steps
    early, last = ({path.name for path in (samples / step).glob("*.wav")} for step in steps)
    assert len(early) == 8
    assert early == last


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_run_stopped_as_asked_at_any_step_saves_and_goes_on_to_the_same_end(
    finished_run, tiny, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patched:
        stop_after(patched, step)
        with pytest.raises(Interrupted, match=f"stopped after step {step}; go on by `schurgan resume"):
            train(tiny(), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / f"step-{step:08}.pt").exists()
    resume(tmp_path / "run")
    assert_same_run_but_for_older_checkpoints(tmp_path / "run", finished_run)


def assert_same_run_but_for_older_checkpoints(run: Path, other: Path) -> None:
    for each in (run, other):
        assert (each / "checkpoints" / "step-00000006.pt").exists()
    for path in (run / "checkpoints").glob("*.pt"):
        if not (other / "checkpoints" / path.name).exists():
            path.rename(path.with_name("step-00000003.pt"))
    assert_same_run(run, other)


def test_a_run_killed_before_its_first_checkpoint_and_again_after_it_ends_as_one_never_stopped(tiny, tmp_path, spawn):
    config = tiny(steps=90, checkpoint_every=30, log_every=4)
    straight = train(config, tmp_path / "straight")
    config.save(tmp_path / "options.yaml")
    run, chance = tmp_path / "run", random.Random(0)
    process = spawn("train", "--config", tmp_path / "options.yaml", "--out", run)
    kill_when(process, (run / "metrics.jsonl").exists, delay=0.0)
    assert not list((run / "checkpoints").glob("step-*.pt"))
    process = spawn("resume", run)
    kill_when(process, (run / "checkpoints" / "step-00000030.pt").exists, delay=chance.uniform(0, 0.3))
    resume(run)
    assert_same_run(run, straight)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_moments_until_it_is_through_ends_as_one_never_stopped(tiny, tmp_path, spawn, seed):
    config = tiny(steps=120, checkpoint_every=7, log_every=5, sample_every=11, d_steps=2, seed=seed)
    straight = train(config, tmp_path / "straight")
    config.save(tmp_path / "options.yaml")
    run, chance = tmp_path / "run", random.Random(seed)
    process = spawn("train", "--config", tmp_path / "options.yaml", "--out", run)
    for _ in range(4):
        wait_for(process, (run / "config.yaml").exists)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(1.5, 4.5))
            break  # through before it could be killed
        process.kill()
        process.communicate()
        process = spawn("resume", run)
    process.communicate()
    resume(run)
    assert_same_run(run, straight)


def test_sigterm_saves_and_ends_with_status_1_and_one_sentence(tiny, tmp_path, spawn):
    config = tiny(steps=4000, checkpoint_every=4000, log_every=2)
    config.save(tmp_path / "options.yaml")
    run = tmp_path / "run"
    process = spawn("train", "--config", tmp_path / "options.yaml", "--out", run)
    wait_for(process, (run / "metrics.jsonl").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[-1].startswith("schurgan: stopped after step ")
    assert f"go on by `schurgan resume {run}`" in err
    assert "Traceback" not in err
    (checkpoint,) = (run / "checkpoints").glob("*.pt")
    assert f"stopped after step {int(checkpoint.stem[5:])};" in err
    assert (run / "generator.safetensors").exists()


def test_resuming_a_finished_run_changes_no_file(copied_run):
    before = contents(copied_run)
    times = {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")}
    resume(copied_run)
    assert contents(copied_run) == before
    assert {path: path.stat().st_mtime_ns for path in copied_run.rglob("*")} == times


@pytest.mark.parametrize("lost", ["generator.safetensors", "samples/step-00000006.png"])
def test_resuming_a_run_that_was_killed_after_its_last_step_makes_what_is_missing(copied_run, finished_run, lost):
    (copied_run / lost).unlink()
    (copied_run / "checkpoints" / ".step-00000006.pt.4711.partial").write_bytes(b"half")
    (copied_run / ".generator.safetensors.4711.partial").write_bytes(b"half")
    resume(copied_run)
    assert_same_run(copied_run, finished_run)


def test_a_damaged_newest_checkpoint_is_a_line_to_the_user_and_the_run_is_repeated_from_the_one_before(
    copied_run, finished_run, call
):
    newest = copied_run / "checkpoints" / "step-00000006.pt"
    content = bytearray(newest.read_bytes())
    content[5000] ^= 4  # not in the padding between the parts of the archive
    newest.write_bytes(content)
    said = call("resume", copied_run)
    assert said.status == 0
    warned = [line for line in said.err.splitlines() if "warning" in line.lower()]
    assert len(warned) == 1
    assert warned[0].startswith(f"schurgan: warning: {newest}: damaged")
    assert warned[0].endswith("the checkpoint before it is used")
    assert_same_run(copied_run, finished_run)


def test_all_checkpoints_damaged_is_one_sentence_and_nothing_is_touched(copied_run, refused):
    for path in (copied_run / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    before = contents(copied_run)
    said = refused("resume", copied_run)
    assert "none of 2 checkpoints can be read (" in said
    assert said.endswith("train again in a new folder")
    assert contents(copied_run) == before


def test_a_checkpoint_of_other_data_is_refused_and_the_same_data_elsewhere_is_not(
    copied_run, finished_run, shards, refused, tmp_path
):
    spectrogram = Spectrogram(size=16, channels=1, n_samples=8000)
    other = open_source("soundscape", per_class=6, seconds=0.5, seed=1)
    prepare(other, tmp_path / "other", spectrogram, workers=1)
    assert refused("resume", copied_run, "--data", tmp_path / "other").startswith(f"{tmp_path / 'other'}: ")
    (copied_run / "checkpoints" / "step-00000006.pt").unlink()
    resume(copied_run, data=shutil.copytree(shards, tmp_path / "moved"))
    last = Path("checkpoints") / "step-00000006.pt"
    assert equal(state(copied_run / last), state(finished_run / last))


def test_lines_after_the_checkpoint_and_half_a_line_are_dropped_from_the_metrics(copied_run, finished_run):
    (copied_run / "checkpoints" / "step-00000006.pt").unlink()
    with open(copied_run / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss_d"')
    resume(copied_run)
    assert rows(copied_run) == rows(finished_run)


def test_a_loss_that_is_never_a_number_is_named_and_ends_the_run_after_all_its_attempts(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Hinge, "generator", lambda self, real, fake: fake.mean() * float("nan"))
    run = train(tiny(log_every=3), tmp_path / "run")
    kinds = [event["event"] for event in events(run)]
    assert kinds == ["collapsed", "rollback"] * 3 + ["collapsed", "stopped"]
    assert {event["step"] for event in events(run)} == {1}  # at once
    assert "loss_g was NaN first" in events(run)[0]["reason"]
    assert [path.name for path in sorted((run / "checkpoints").glob("*.pt"))][-1] == "step-00000000-a3.pt"
    resume(run)
    assert [event["event"] for event in events(run)] == kinds


def test_data_that_cannot_be_trained_on_is_one_sentence_and_leaves_no_folder(tiny, tmp_path):
    """A single clip has no variance."""
    source = open_source("soundscape", per_class=1, seconds=0.5)
    prepare(source, tmp_path / "data", Spectrogram(size=16, channels=1, n_samples=8000), workers=1)
    config = tiny().model_copy(update={"data": tmp_path / "data"})
    train(config, tmp_path / "eight")
    assert (tmp_path / "eight" / "generator.safetensors").exists()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Shards, "batches", lambda self, n: iter([(self.images([0]), self.labels[:1])]))
        with pytest.raises(SchurganError, match="data: 1 real images given: two or more are needed"):
            train(config, tmp_path / "one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 20])
def test_a_disk_that_fills_up_is_one_sentence_and_the_run_can_be_gone_on_with(
    tiny, tmp_path, finished_run, full_disk, after
):
    run = tmp_path / "run"
    with (
        full_disk(after=after),
        pytest.raises(SchurganError, match=r"run: cannot be written \(No space left on device\)"),
    ):
        train(tiny(), run)
    assert not list(tmp_path.rglob("*.partial"))
    if after == 0:
        assert not run.exists()
        train(tiny(), run)
    else:
        resume(run)
    assert_same_run(run, finished_run)


def test_a_run_can_be_trained_outside_the_main_thread_where_signals_cannot_be_caught(tiny, tmp_path, finished_run):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, tiny(), tmp_path / "run").result()
    assert_same_run(tmp_path / "run", finished_run)


def test_batch_statistics_of_the_last_model_are_taken_once_for_its_checkpoint_its_file_and_its_sounds(
    tiny, tmp_path, monkeypatch
):
    taken = []

    def count(network: Any, *arguments: Any, **options: Any) -> None:
        taken.append(network)
        standing_statistics(network, *arguments, **options)

    monkeypatch.setattr(artifacts, "standing_statistics", count)
    train(tiny(steps=2, checkpoint_every=100, sample_every=100), tmp_path / "run")
    assert len(taken) == 1
