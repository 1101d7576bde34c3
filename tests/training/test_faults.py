"""What goes wrong at night, provoked: within how many steps a run says so, what it says, and how it ends."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from watched_runs import EVERY, PATIENCE, events, kinds

from schurgan.audio import Spectrogram
from schurgan.core.errors import SchurganError
from schurgan.data import prepare
from schurgan.data.shards import Shards
from schurgan.data.sources import open_source
from schurgan.model import load
from schurgan.runs.folder import RunFolder
from schurgan.training import resume, train
from schurgan.training.build import build_trainer
from schurgan.training.checkpoint import Checkpoints
from schurgan.training.losses import Hinge
from schurgan.training.trainer import Trainer

AT = 13  # the step before which things go wrong


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`before_step(13, harm)`: harm(trainer) right before that step, once."""

    def arrange(step: int, harm: Callable[[Trainer], None]) -> None:
        training_step, done = Trainer.training_step, []

        def harmed(trainer: Trainer, batches: Any) -> Any:
            if trainer.global_step == step - 1 and not done:
                done.append(step)
                harm(trainer)
            return training_step(trainer, batches)

        monkeypatch.setattr(Trainer, "training_step", harmed)

    return arrange


def finite(run: Path) -> bool:
    return all(value.isfinite().all() for value in load(run).generator.state_dict().values())


def put_nan(network: str, name: str) -> Callable[[Trainer], None]:
    @torch.no_grad()
    def harm(trainer: Trainer) -> None:
        part: nn.Module = getattr(trainer, network)
        named = dict(part.named_parameters()) | dict(part.named_buffers())
        (found,) = (value for key, value in named.items() if key == name)
        found.view(-1)[0] = float("nan")

    return harm


@pytest.mark.parametrize(
    ("network", "name"),
    [("generator", "output.bias"), pytest.param("discriminator", "", marks=pytest.mark.slow)],
)
def test_a_nan_in_a_weight_is_seen_in_the_step_named_and_rolled_back(watched, tmp_path, before_step, network, name):
    """But for a class's own weights, which a step without that class does not use."""
    name = name or next(iter(dict(getattr(build_trainer(watched(), 8), network).named_parameters())))
    before_step(AT, put_nan(network, name))
    run = train(watched(), tmp_path / "run")
    assert kinds(run) == ["collapsed", "rollback", "finished"]
    collapsed, rollback, _ = events(run)
    assert collapsed["step"] == AT  # 0 steps later
    assert f"the parameter {network}.{name} held NaN before the step" in collapsed["reason"]
    assert rollback["to"] == 8  # of 12, the last evaluation, and 10 it is not known what came after
    assert finite(run)


@pytest.mark.parametrize(("network", "buffer"), [("generator", "running_mean"), ("generator_ema", "running_var")])
def test_a_nan_in_a_buffer_that_no_step_uses_is_seen_by_the_next_evaluation(
    watched, tmp_path, before_step, network, buffer
):
    named = dict(getattr(build_trainer(watched(), 8), network).named_buffers())
    name = next(key for key in named if key.endswith(buffer))
    if network == "generator_ema":  # whose buffers are copied from the generator's at each step
        before_step(AT, put_nan("generator", name))
    else:
        before_step(AT, put_nan(network, name))
    run = train(watched(), tmp_path / "run")
    assert kinds(run) == ["collapsed", "rollback", "finished"]
    collapsed = events(run)[0]
    assert AT <= collapsed["step"] < AT + EVERY
    assert f"generator.{name} held a NaN" in collapsed["reason"]
    assert finite(run)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_loss_that_is_not_finite_changes_nothing_and_is_named_in_its_step(watched, tmp_path, monkeypatch, value):
    real, calls, changed = Hinge.generator, [], []
    training_step = Trainer.training_step

    def broken(self: Hinge, *scores: Tensor) -> Tensor:
        bad = float(value) if calls and calls[-1] == AT - 1 else 1.0
        return real(self, *scores) * bad

    def noted(trainer: Trainer, batches: Any) -> Any:
        first = trainer.global_step == AT - 1 and AT - 1 not in calls
        calls.append(trainer.global_step if first or trainer.global_step != AT - 1 else -1)
        before = [weight.detach().clone() for weight in trainer.generator.parameters()]
        metrics = training_step(trainer, batches)
        if first:
            changed.append(
                any(not torch.equal(a, b) for a, b in zip(before, trainer.generator.parameters(), strict=True))
            )
        return metrics

    monkeypatch.setattr(Hinge, "generator", broken)
    monkeypatch.setattr(Trainer, "training_step", noted)
    run = train(watched(), tmp_path / "run")
    assert changed == [False]
    assert kinds(run) == ["collapsed", "rollback", "finished"]
    assert events(run)[0]["step"] == AT
    assert "loss_g was " in events(run)[0]["reason"]
    assert finite(run)


def test_with_warn_a_run_that_can_only_stand_still_ends_with_a_sentence(watched, tmp_path, before_step):
    before_step(AT, nan_everywhere)
    with pytest.raises(SchurganError, match="not finite: the parameter discriminator"):
        train(watched({"reaction": "warn"}), tmp_path / "run")


@torch.no_grad()
def nan_everywhere(trainer: Trainer) -> None:
    for value in trainer.discriminator.parameters():
        value.fill_(float("nan"))


def test_a_learning_rate_of_5_is_a_failed_run_at_the_latest_halfway_through(watched, tmp_path):
    """G gives one image for ever. Nothing was lost: that D is dead tells, or that nothing was ever varied."""
    steps = 24
    run = train(watched({"max_rollbacks": 0}, steps=steps, lr_g=5.0, lr_d=5.0), tmp_path / "run")
    assert kinds(run)[-1] == "stopped"
    (collapsed,) = (event for event in events(run) if event["event"] == "collapsed")
    assert collapsed["step"] <= steps // 2 + PATIENCE * EVERY
    said = collapsed["reason"].lower()
    assert any(sign in said for sign in ("has never been over", "scores all images alike", "not finite"))


def test_a_learning_rate_that_explodes_later_is_seen_in_two_evaluations_and_rolled_back(watched, tmp_path, before_step):
    def harm(trainer: Trainer) -> None:
        for optimizer in (trainer.g.optimizer, trainer.d.optimizer):
            for group in optimizer.param_groups:
                group["lr"] = 5.0

    before_step(AT, harm)
    run = train(watched(steps=22), tmp_path / "run")
    assert kinds(run)[-1] == "finished"
    assert "rollback" in kinds(run)
    (collapsed,) = (event for event in events(run) if event["event"] == "collapsed")
    assert AT <= collapsed["step"] <= AT + PATIENCE * EVERY
    assert finite(run)
    assert all(each.scores["variety"] > 0.5 for each in RunFolder(run).read_records().health if each.attempt)


@pytest.mark.slow
def test_a_discriminator_that_does_not_learn_ends_the_run_once_variety_is_gone(watched, tmp_path, monkeypatch):
    """With its loss fixed, G walks to the few images that D happens to like: after 100 steps here."""
    made = Trainer.__init__

    def frozen(trainer: Trainer, *given: Any, **named: Any) -> None:
        made(trainer, *given, **named)
        monkeypatch.setattr(trainer.d.optimizer, "step", lambda *_, **__: None)

    monkeypatch.setattr(Trainer, "__init__", frozen)
    health = {"every": 10, "images": 32, "warm_up": 20, "reaction": "stop"}
    run = train(watched(health, steps=200, checkpoint_every=10), tmp_path / "run")
    assert kinds(run) == ["warning", "collapsed", "stopped"]
    assert events(run)[1]["step"] <= 150
    assert "variety within a class" in events(run)[1]["reason"]


def test_labels_that_are_all_equal_are_said_before_the_first_step_and_the_run_goes_on(watched, tmp_path, monkeypatch):
    made = Shards.__init__

    def relabelled(shards: Shards, *given: Any, **named: Any) -> None:
        made(shards, *given, **named)
        shards.labels = np.zeros_like(shards.labels)

    monkeypatch.setattr(Shards, "__init__", relabelled)
    run = train(watched(steps=4), tmp_path / "run")
    warned, *rest = events(run)
    assert (warned["step"], warned["event"]) == (0, "warning")
    assert warned["reason"].startswith("7 of 8 classes have no recording to train on (")
    assert [event["event"] for event in rest] == ["finished"]


def test_data_of_one_class_trains_and_is_watched_without_a_classifier(watched, tmp_path, recordings):
    shutil.copytree(recordings / "bell", tmp_path / "sounds" / "bell")
    spectrogram = Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000)
    prepare(open_source("folder", tmp_path / "sounds"), tmp_path / "data", spectrogram, workers=1)
    config = watched({"classifier": True}, steps=4, batch_size=4).model_copy(update={"data": tmp_path / "data"})
    run = train(config, tmp_path / "run")
    assert kinds(run)[-1] == "finished"
    lines = RunFolder(run).read_records().health
    assert len(lines) == 2
    assert all("frechet" not in line.scores and line.scores["variety"] > 0 for line in lines)


def test_a_disk_that_is_full_for_a_while_pauses_saving_and_costs_nothing_else(watched, tmp_path, monkeypatch):
    """From step 5 to step 8 nothing can be forced to the disk; what is due at 10 is saved again."""
    calm = train(watched(steps=14), tmp_path / "calm")
    real, step = os.fsync, [0]
    training_step = Trainer.training_step

    def count(trainer: Trainer, batches: Any) -> Any:
        metrics = training_step(trainer, batches)
        step[0] = trainer.global_step
        return metrics

    def fsync(descriptor: int) -> None:
        if 5 <= step[0] <= 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(Trainer, "training_step", count)
    monkeypatch.setattr(os, "fsync", fsync)
    run = train(watched(steps=14), tmp_path / "run")
    failed = [event for event in events(run) if event["event"] == "checkpoint_failed"]
    assert {event["step"] for event in failed} == {6, 8}  # in the step in which it was due
    assert "No space left on device" in failed[0]["reason"]
    assert kinds(run)[-1] == "finished"
    saved = {path.name for path in Checkpoints(run).paths()}
    assert saved == {f"step-{step:08}.pt" for step in (2, 4, 10, 12, 14)}
    assert (run / "generator.safetensors").read_bytes() == (calm / "generator.safetensors").read_bytes()
    assert not list(run.rglob("*.partial"))


def test_lines_that_a_full_disk_refused_are_written_when_there_is_room_again(watched, tmp_path, monkeypatch):
    from schurgan.runs.records import MetricsFile

    calm = train(watched(steps=8), tmp_path / "calm")
    append, refused = MetricsFile.append, []

    def fail(file: Any, line: Any) -> None:
        if 3 <= line.step <= 5 and len(refused) < 3:
            refused.append(line)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, line)

    monkeypatch.setattr(MetricsFile, "append", fail)
    with pytest.warns(UserWarning, match="the run goes on and keeps its lines in memory"):
        run = train(watched(steps=8), tmp_path / "run")
    assert refused

    def steps(folder: Path) -> list[int]:
        return [each.step for each in RunFolder(folder).read_records().health]

    assert steps(run) == steps(calm) == [2, 4, 6, 8]


def test_a_flipped_bit_in_the_newest_checkpoint_is_found_when_the_run_is_taken_up(watched, tmp_path):
    calm = train(watched(steps=8), tmp_path / "calm")
    run = train(watched(steps=8), tmp_path / "run")
    newest = Checkpoints(run).paths()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    (run / "generator.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"step-00000008\.pt: damaged .* the checkpoint before it is used"):
        resume(run)
    assert (run / "generator.safetensors").read_bytes() == (calm / "generator.safetensors").read_bytes()
