"""What a run does about a collapse: back to where it was healthy and on more gently, an end, or a warning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from compared_runs import contents, equal
from watched_runs import events, kinds

from schurgan.core.errors import Interrupted
from schurgan.data import Shards
from schurgan.data.loader import Batches
from schurgan.data.shards import split
from schurgan.health import Verdict
from schurgan.model import load
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.training import resume, train
from schurgan.training import run as loop
from schurgan.training.build import build_trainer
from schurgan.training.checkpoint import Checkpoints, read
from schurgan.training.recovery import gentler
from schurgan.training.trainer import Trainer
from schurgan.training.watcher import Watcher

# Evaluations at 2 and 4 settle, those at 6, 8 and 10 give a level; ill at 16 and 18 is a verdict at 18. Step 10 is the
# last one that two good evaluations came after.
ONSET, SEEN, HEALTHY = 16, 18, 10


@pytest.fixture
def options(watched: Callable[..., Config]) -> Callable[..., Config]:
    return lambda health=None, **training: watched(health, **({"steps": 22} | training))


@pytest.fixture
def ill(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`ill(attempts=2, since=16)`: the first two attempts have a Fréchet distance of a million from step 16 on."""

    def make(attempts: int = 1, since: int = ONSET) -> None:
        evaluate = Watcher.evaluate

        def seen(watch: Watcher, trainer: Trainer) -> tuple[dict[str, Any], Verdict]:
            update, first = watch.monitor.update, watch._config
            seeds = [gentler(first, number).train.seed for number in range(attempts)]
            bad = trainer.global_step >= since and trainer.seed in seeds
            # Better from step to step, so that the best is the last one before.
            given = {"frechet": 1e6 if bad else 2.0 - trainer.global_step / 100}
            watch.monitor.update = lambda step, **found: update(step, **found | given)
            try:
                return evaluate(watch, trainer)
            finally:
                del watch.monitor.update

        monkeypatch.setattr(Watcher, "evaluate", seen)

    return make


def rows(run: Path) -> list[tuple[int, int]]:
    """(attempt, step) of every row of means."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["attempt"], line["step"]) for line in lines if "event" not in line and "health" not in line]


def names(run: Path) -> list[str]:
    return [path.name for path in Checkpoints(run).paths()]


def state(run: Path, name: str) -> dict[str, Any]:
    return read(run / "checkpoints" / name).state


@contextmanager
def stopped_after(patched: pytest.MonkeyPatch, step: int, seed: int) -> Iterator[None]:
    """As if SIGTERM came during that step of the attempt with that seed."""
    asked: list[int] = []
    training_step = Trainer.training_step

    def count(trainer: Trainer, batches: Any) -> Any:
        metrics = training_step(trainer, batches)
        if trainer.global_step == step and trainer.seed == seed:
            asked.append(15)
        return metrics

    @contextmanager
    def requests(answer: str) -> Iterator[list[int]]:
        yield asked

    with patched.context() as inside:
        inside.setattr(Trainer, "training_step", count)
        inside.setattr(loop, "stop_requests", requests)
        yield


def test_a_collapse_leads_back_to_the_newest_healthy_checkpoint_before_it_and_on_to_the_end(options, ill, tmp_path):
    ill()
    config = options()
    run = train(config, tmp_path / "run")
    assert kinds(run) == ["collapsed", "rollback", "finished"]
    collapsed, rollback, _ = events(run)
    assert (collapsed["step"], collapsed["onset"], collapsed["attempt"]) == (SEEN, ONSET, 0)
    assert (rollback["step"], rollback["to"], rollback["attempt"]) == (SEEN, HEALTHY, 0)
    assert "the Fréchet distance was 1e+06" in rollback["reason"]
    assert rows(run) == [(0, step) for step in range(2, SEEN + 1, 2)] + [(1, step) for step in range(12, 23, 2)]
    # What attempt 0 saved after step 10 is gone, but for the one of the best score; attempt 1 has its own names.
    first, later = ([name for name in names(run) if ("-a" in name) == again] for again in (False, True))
    assert first == [f"step-{step:08}.pt" for step in range(2, HEALTHY + 1, 2)]
    assert later == [f"step-{step:08}-a1.pt" for step in range(HEALTHY, 23, 2)]
    assert (run / "samples" / "step-00000022-a1.png").exists()


def test_the_next_attempt_begins_with_the_state_gone_back_to_and_trains_with_gentler_options(options, ill, tmp_path):
    ill()
    config = options()
    run = train(config, tmp_path / "run")
    before, after = state(run, "step-00000010.pt"), state(run, "step-00000010-a1.pt")
    networks = ("generator", "discriminator", "generator_ema", "conditions.ddfn", "global_step")
    assert all(equal(before["trainer"][name], after["trainer"][name]) for name in networks)
    (group,) = state(run, "step-00000022-a1.pt")["trainer"]["optimizer_d"]["param_groups"]
    assert group["lr"] == config.train.lr_d / 2
    assert read(run / "checkpoints" / "step-00000022-a1.pt").record.attempt == 1
    # Step 11 with these options, taken here by hand from the state at 10.
    soft = gentler(config, 1)
    shards = Shards(config.data)
    trainer = build_trainer(soft, len(shards.classes))
    trainer.load_state_dict(before["trainer"])
    training, _ = split(shards)
    batches = Batches(training, soft.train.batch_size, soft.train.seed)
    for number in (10, 11):
        images, labels = batches.batch(number)
        trainer.training_step([(images, labels)])
    twelve = state(run, "step-00000012-a1.pt")["trainer"]
    assert equal(dict(trainer.generator.state_dict()), dict(twelve["generator"]))


def test_after_its_rollbacks_a_run_ends_with_the_best_step_and_is_left_alone_when_resumed(options, ill, tmp_path):
    ill(attempts=9)
    run = train(options({"max_rollbacks": 2}), tmp_path / "run")
    assert kinds(run) == ["collapsed", "rollback"] * 2 + ["collapsed", "stopped"]
    assert [event["attempt"] for event in events(run)] == [0, 0, 1, 1, 2, 2]
    last = events(run)[-1]
    assert last["step"] == SEEN
    assert last["to"] == 14  # the best evaluation before the onset
    assert "ends after 2 of 2 attempts" in last["reason"]
    assert load(run).card.step == 14
    assert (run / "samples" / "step-00000014-a2.png").exists()
    before = contents(run)
    resume(run)
    assert contents(run) == before


def test_a_stopped_run_given_a_warning_for_its_reaction_goes_on_over_the_collapse(options, ill, tmp_path):
    ill(attempts=9)
    run = train(options({"reaction": "stop"}), tmp_path / "run")
    assert kinds(run) == ["collapsed", "stopped"]
    resume(run, config=RunFolder(run).read_config().override(reaction="warn"))
    assert kinds(run)[-1] == "finished"
    assert "rollback" not in kinds(run)
    assert load(run).card.step == 22


def test_a_stopped_run_given_another_option_goes_on_from_the_state_that_it_ended_with(options, ill, tmp_path):
    ill()
    run = train(options({"reaction": "stop"}), tmp_path / "run")
    resume(run, config=RunFolder(run).read_config().override(lr_g=1e-4))
    assert kinds(run) == ["collapsed", "stopped", "resumed", "rollback", "finished"]
    resumed, back = events(run)[2:4]
    assert "train.lr-g 0.0001 (was 0.001), 5e-05 in attempt 1" in resumed["reason"]
    assert back["to"] == 14
    assert load(run).card.step == 22


def test_stop_ends_a_run_at_its_first_collapse_with_the_best_step_before_it(options, ill, tmp_path):
    ill()
    run = train(options({"reaction": "stop"}), tmp_path / "run")
    assert kinds(run) == ["collapsed", "stopped"]
    assert events(run)[-1]["to"] == 14
    generator = state(run, "step-00000014.pt")["trainer"]["generator_ema"]
    assert load(run).card.step == 14
    assert torch.equal(load(run).generator.output.bias, generator["output.bias"])


def test_warn_says_so_and_trains_the_run_that_nobody_watched(options, ill, tmp_path):
    ill()
    run = train(options({"reaction": "warn"}), tmp_path / "run")
    assert kinds(run) == ["collapsed", "finished"]
    unwatched = train(options({"every": 0}), tmp_path / "unwatched")
    assert (run / "generator.safetensors").read_bytes() == (unwatched / "generator.safetensors").read_bytes()


def test_a_collapse_before_any_checkpoint_begins_anew_from_the_start(options, ill, tmp_path):
    ill()
    run = train(options(checkpoint_every=1000), tmp_path / "run")
    assert kinds(run) == ["collapsed", "rollback", "finished"]
    assert events(run)[1]["to"] == 0
    assert rows(run)[SEEN // 2 :] == [(1, step) for step in range(2, 23, 2)]
    assert names(run) == ["step-00000000-a1.pt", "step-00000022-a1.pt"]


def test_a_collapse_before_any_checkpoint_with_stop_says_that_there_is_none(options, ill, tmp_path):
    ill()
    run = train(options({"reaction": "stop"}, checkpoint_every=1000), tmp_path / "run")
    assert kinds(run) == ["collapsed", "stopped"]
    assert "There is no checkpoint of a step before it" in events(run)[-1]["reason"]


@pytest.mark.parametrize("step", [11, *(pytest.param(step, marks=pytest.mark.slow) for step in (18, 22))])
def test_a_run_stopped_in_attempt_1_ends_as_one_never_stopped(options, ill, tmp_path, monkeypatch, step):
    ill(attempts=1)
    config = options(steps=24)
    straight = train(config, tmp_path / "straight")
    with stopped_after(monkeypatch, step, gentler(config, 1).train.seed), pytest.raises(Interrupted):
        train(config, tmp_path / "run")
    assert f"step-{step:08}-a1.pt" in names(tmp_path / "run")
    resume(tmp_path / "run")
    assert kinds(tmp_path / "run") == ["collapsed", "rollback", "interrupted", "resumed", "finished"]
    last = "step-00000024-a1.pt"
    for part in ("trainer", "watch"):
        assert equal(state(tmp_path / "run", last)[part], state(straight, last)[part])
    assert rows(tmp_path / "run") == rows(straight)


def test_a_damaged_checkpoint_is_named_and_the_rollback_goes_to_the_one_before_it(options, ill, tmp_path, monkeypatch):
    ill()
    healthy, done = Checkpoints.healthy_steps, []

    def damage(checkpoints: Checkpoints) -> list[int]:
        steps = healthy(checkpoints)
        path = checkpoints.path(HEALTHY)
        if path.exists() and not done:
            content = bytearray(path.read_bytes())
            content[5000] ^= 1
            path.write_bytes(content)
            done.append(path)
        return steps

    monkeypatch.setattr(Checkpoints, "healthy_steps", damage)
    with pytest.warns(UserWarning, match=r"step-00000010\.pt: damaged .* the checkpoint before it is used"):
        run = train(options(), tmp_path / "run")
    assert "step-00000008-a1.pt" in names(run)
    assert kinds(run)[-1] == "finished"


def test_a_copy_of_a_rolled_back_run_holds_all_it_needs(options, ill, tmp_path):
    """Also that it was in attempt 1, whose rates it goes on with."""
    ill()
    config = options()
    run = train(config, tmp_path / "run")
    copied = Path(shutil.copytree(run, tmp_path / "copy"))
    (copied / "checkpoints" / "step-00000022-a1.pt").unlink()
    resume(copied)
    last = "step-00000022-a1.pt"
    assert equal(state(copied, last)["trainer"], state(run, last)["trainer"])
    assert (copied / "generator.safetensors").read_bytes() == (run / "generator.safetensors").read_bytes()
