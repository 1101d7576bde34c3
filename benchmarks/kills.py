"""A command killed at random moments, while it writes too, again and again: is its end that of a calm one?

    python benchmarks/kills.py --kills 100
    python benchmarks/kills.py --kills 10 --processes 2 [--fault-at 60]
    python benchmarks/kills.py --what study --kills 30 [--jobs 2]
    python benchmarks/kills.py --what report --kills 30

A small run with its health monitor on (an evaluation every 4 steps, classifier and all) and a checkpoint after every
other step gets SIGKILL at random moments, and is resumed, until it has had its kills; then it may end.
Weights, states, metrics, pictures and sounds must then be those of the run that was never stopped, bit for bit. Each
life is forked from a process that has everything imported already, so that most of it is training and writing.

With two processes (gloo) one of them or both are killed, as chance wants; the rest gets time to notice,
and both are started anew. `--fault-at` makes the monitor see a collapse from that step on, so that the run goes back
to a checkpoint and on as attempt 1: kills then come in both attempts.

A study is two rows of Table 2 at laptop scale, each by 12 steps and scores of 32 images, classifier, sounds and all;
a report is that of the small run. The same command is started again after each kill, which may come at any moment of
a calm one's time; where it ends before, its files are compared and it starts in a new place, until it has had its
kills. Then the last one may end.

The last line of the output is the summary; the exit status says whether all was the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from schurgan.audio import Spectrogram
from schurgan.commands.main import main as main_command
from schurgan.core.errors import SchurganError
from schurgan.data import prepare
from schurgan.data.sources import open_source
from schurgan.health import Verdict
from schurgan.runs.config import Config, merge_options
from schurgan.studies import study as studies
from schurgan.training import resume, train
from schurgan.training.checkpoint import Checkpoints, read
from schurgan.training.trainer import Trainer
from schurgan.training.watcher import Watcher

FORK = multiprocessing.get_context("fork")
LONGEST = 1800.0  # seconds that one life may take at most
STARTING = 0.15  # share of the kills that come at any moment from the start, the others after the next checkpoint


def options(data: Path, steps: int) -> Config:
    """Half a second of it goes into networks, the rest into what is to be broken."""
    return Config.model_validate(
        {
            "data": data,
            "model": {"architecture": "small-16", "width": 4},
            "train": {
                "steps": steps,
                "batch_size": 8,
                "d_steps": 2,
                "log_every": 3,
                "checkpoint_every": 2,
                "keep_checkpoints": 12,
                "sample_every": 50,
                "threads": 1,
                "device": "cpu",
            },
            "ddfn": {"per_class": True, "relative_epsilon": 0.02, "decay": 0.9},
            "moment_matching": {"descriptor": "gram"},
            "regularize": {"augment": "colour,translation", "lecam": 0.1, "lecam_start": 10},
            "health": {"every": 4, "images": 16, "budget": 0.0, "warm_up": 8, "patience": 2},
        }
    )


def live(config: Config, run: Path, fault_at: int | None, environment: dict[str, str]) -> None:
    """One life of one process of a run, from its start or its newest checkpoint to the end or the kill."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    if fault_at is not None:
        collapse_at(fault_at)
    with open(run.with_suffix(".log"), "a") as log, redirect_stderr(log):
        try:
            if (run / "config.yaml").exists():
                resume(run)
            else:
                train(config, run)
        except SchurganError as error:
            print(error, file=sys.stderr)
            raise SystemExit(3) from None


def collapse_at(step: int) -> None:
    """Attempt 0, which the seed tells from the others, looks collapsed at every evaluation from that step on."""
    evaluate = Watcher.evaluate

    def evaluate_collapsed(watch: Watcher, trainer: Trainer) -> tuple[dict[str, Any], Verdict]:
        update = watch.monitor.update
        if trainer.global_step >= step and trainer.seed == 0:
            watch.monitor.update = lambda at, **found: update(at, **found | {"frechet": 1e6})  # type: ignore
        try:
            return evaluate(watch, trainer)
        finally:
            vars(watch.monitor).pop("update", None)

    Watcher.evaluate = evaluate_collapsed  # type: ignore[assignment, method-assign]


class Life:
    """The processes of a run between two kills."""

    def __init__(self, config: Config, run: Path, processes: int, fault_at: int | None) -> None:
        self.processes = []
        for rank in range(processes):
            place: dict[str, str] = {}
            if processes > 1:
                if not rank:
                    port = free_port()
                place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
                place |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            process = FORK.Process(target=live, args=(config, run, fault_at, place))
            process.start()
            self.processes.append(process)

    def wait(self, seconds: float) -> bool:
        """Whether all ended well in that time."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        if any(code not in (None, 0) for code in codes):
            raise RuntimeError(f"a process that nobody had killed ended with {codes}")
        return None not in codes

    def kill(self, ranks: list[int]) -> None:
        """SIGKILL to these; the others must end by themselves, with a sentence."""
        for rank in ranks:
            self.processes[rank].kill()
        for rank, process in enumerate(self.processes):
            process.join(60)
            if process.exitcode not in ((-signal.SIGKILL, 0) if rank in ranks else (3, 0)):
                raise RuntimeError(f"process {rank} ended with {process.exitcode}")


ROWS = ["us8k-biggan-256", "us8k-proposed-ddfn-256"]
RAW = studies._raw


def shortened(name: str) -> dict[str, Any]:
    """Table 2 with two rows, which take half a minute each."""
    content = RAW(name)
    if name == "table2":
        return content | {"title": "Table 2, shortened", "only": ROWS, "comparisons": []}
    laptop = content["scales"]["laptop"]
    few = {"steps": 12, "checkpoint_every": 2, "log_every": 2}
    options = merge_options(laptop["options"], {"train": few, "health": {"every": 4, "images": 32, "warm_up": 4}})
    content["scales"] = {"laptop": laptop | {"seeds": 1, "images": 32, "runs": 1, "options": options}}
    content["data"]["us8k"]["laptop"]["options"] = {"train": {"val_fraction": 0.3}}
    return content


def command(arguments: list[str], log: Path) -> None:
    """One life of a command, in a process forked for it."""
    torch.set_num_threads(1)
    studies._raw = shortened
    with open(log, "a") as file, redirect_stderr(file), redirect_stdout(file):
        main_command(arguments)


def results(place: Path) -> dict[str, Any]:
    """Files of a study or of a run with its report, without times, paths and how often it was resumed."""
    files: dict[str, Any] = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        name = str(path.relative_to(place))
        if path.name == "scores.json":
            scores = json.loads(path.read_text())
            # Its checksum is of the time and the path too.
            files[name] = scores | {"protocol": {**scores["protocol"], "date": "", "run": ""}, "checksum": ""}
        elif path.name not in ("metrics.jsonl", "trial.log") and path.parent.name != "checkpoints":
            files[name] = path.read_bytes()
    return files


def torment_command(
    what: str, start: Callable[[Path], list[str]], folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Kill and start again until it has had its kills, let it end, and say what is not as after a calm one."""
    chance, log, kills, ends = random.Random(arguments.seed), folder / f"{what}.log", Counter[str](), 1

    def life(place: Path) -> Any:
        process = FORK.Process(target=command, args=(start(place), log))
        process.start()
        return process

    def ended(place: Path) -> list[str]:
        return differences(calm, results(place), what)

    os.environ["SCHURGAN_CACHE"] = str(folder / "cache-calm")  # that of classifiers, which each place trains anew
    began = time.monotonic()
    process = life(folder / "calm")
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the calm {what} ended with {process.exitcode}: see {log}")
    calm, calmly = results(folder / "calm"), time.monotonic() - began
    wrong: list[str] = []
    place = folder / "killed-1"
    while sum(kills.values()) < arguments.kills:
        os.environ["SCHURGAN_CACHE"] = str(folder / f"cache-{ends}")
        process = life(place)
        process.join(chance.uniform(0, calmly * arguments.longest))
        process.kill()
        process.join()
        if process.exitcode == 0:
            wrong += ended(place)
            ends += 1
            place = folder / f"killed-{ends}"
            continue
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"a {what} that nobody had killed ended with {process.exitcode}: see {log}")
        left = sorted(path.name for path in place.rglob(".*.partial")) if place.exists() else []
        kills["amid a file" if left else "elsewhere"] += 1
        print(f"kill {sum(kills.values())} of {what}: {', '.join(left) or 'no file half-written'}", flush=True)
    process = life(place)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the last {what} ended with {process.exitcode}: see {log}")
    wrong += ended(place)
    return {
        "what": what,
        "kills": sum(kills.values()),
        "where": dict(kills),
        "finished": ends,
        "seconds": round(time.monotonic() - began),
        "seconds_calm": round(calmly),
        "identical": not wrong,
        "different": wrong[:20],
    }


def torment_study(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """On eight classes of soundscapes, with their recordings."""
    data = folder / "data-32"
    source = open_source("soundscape", per_class=6, seconds=1.0)
    prepare(source, data, Spectrogram(size=32, channels=1, sample_rate=8000, n_samples=8000), workers=1)
    options = ["--data", f"us8k={data}", "--jobs", str(arguments.jobs)]
    return torment_command("study", lambda place: ["study", "table2", *options, "--out", str(place)], folder, arguments)


def torment_report(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each place has a copy of one run, under the same name, which the page shows."""
    run = train(options(folder / "data", 20), folder / "run")

    def start(place: Path) -> list[str]:
        copy = place / "run"
        if not copy.exists():
            shutil.copytree(run, copy)
        return ["report", str(copy)]

    return torment_command("report", start, folder, arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def where(run: Path) -> str:
    """What a kill has just cut off, as far as its files tell."""
    for left in run.rglob(".*.partial"):
        return {"checkpoints": "amid a checkpoint", "samples": "amid samples"}.get(left.parts[len(run.parts)], "amid G")
    if not (run / "config.yaml").exists():
        return "before the run was there"
    return "amid steps" if list(run.glob("checkpoints/step-*.pt")) else "before a checkpoint"


def outcome(run: Path) -> dict[str, Any]:
    """All that must be the same: the rate, the time and the number of resumes may differ."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [
        {key: value for key, value in line.items() if key not in ("steps_per_second", "time")}
        for line in lines
        if line.get("event") != "resumed"
    ]
    checkpoints = {}
    for path in Checkpoints(run).paths():
        record, state = read(path)
        state["journal"].pop("size")  # lines differ in length by their rates
        checkpoints[path.name] = record.model_dump(exclude={"identity"}), state
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "metrics.jsonl" and path.parent.name != "checkpoints"
    }
    return {"metrics": lines, "checkpoints": checkpoints, "files": files}


def differences(one: Any, other: Any, at: str = "run") -> list[str]:
    """Paths to whatever is not the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [at]
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        inner = [differences(one.get(key, key), other.get(key, (key,)), f"{at}.{key}") for key in keys]
        return [path for paths in inner for path in paths]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            path for i, (a, b) in enumerate(zip(one, other, strict=True)) for path in differences(a, b, f"{at}[{i}]")
        ]
    return [] if type(one) is type(other) and one == other else [at]


def torment(config: Config, run: Path, kills: int, pace: float, arguments: argparse.Namespace) -> Counter[str]:
    """Kill and resume, then let it end; return how often a kill came where. `pace`: seconds of a calm step."""
    where_killed, chance = Counter[str](), random.Random(arguments.seed)
    while sum(where_killed.values()) < kills:
        life = Life(config, run, arguments.processes, arguments.fault_at)
        saved, starting = Checkpoints(run).paths(), chance.random() < STARTING
        while not starting and Checkpoints(run).paths() == saved and not life.wait(0.02):
            pass  # it gets on a little, however busy the machine is
        if life.wait(chance.uniform(0, 10 if starting else 4) * pace):
            raise SystemExit(f"through after {sum(where_killed.values())} kills: more --steps are needed")
        ranks = sorted(chance.sample(range(arguments.processes), chance.randint(1, arguments.processes)))
        life.kill(ranks)
        where_killed[where(run)] += 1
        newest = Checkpoints(run).paths()[-1:]
        print(
            f"kill {sum(where_killed.values())}: {where(run)}, newest {newest[0].name if newest else None}", flush=True
        )
    if not Life(config, run, arguments.processes, arguments.fault_at).wait(LONGEST):
        raise RuntimeError("the last life did not end")
    return where_killed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--what", choices=("run", "study", "report"), default="run")
    parser.add_argument("--jobs", type=int, default=1, help="of a study")
    parser.add_argument("--longest", type=float, default=1.0, help="share of a calm study or report that a life takes")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--fault-at", type=int, help="step from which attempt 0 looks collapsed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where to leave both runs; by default a temporary folder that is removed"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["SCHURGAN_CACHE"] = str(folder / "cache")
        data = folder / "data"
        source = open_source("soundscape", per_class=6, seconds=0.5)
        prepare(source, data, Spectrogram(size=16, channels=1, sample_rate=16000, n_samples=8000), workers=1)
        if arguments.what != "run":
            torment_it = torment_study if arguments.what == "study" else torment_report
            summary = torment_it(folder, arguments)
            print(json.dumps(summary))
            sys.exit(not summary["identical"])
        config, began = options(data, arguments.steps), time.monotonic()
        if not Life(config, folder / "calm", arguments.processes, arguments.fault_at).wait(LONGEST):
            raise RuntimeError("the calm run did not end")
        calm, calmly = outcome(folder / "calm"), time.monotonic() - began
        kills = torment(config, folder / "killed", arguments.kills, calmly / arguments.steps, arguments)
        wrong = differences(calm, outcome(folder / "killed"))
        summary = {
            "kills": sum(kills.values()),
            "processes": arguments.processes,
            "where": dict(kills.most_common()),
            "attempts": 1 + max(line.get("attempt", 0) for line in calm["metrics"]),
            "seconds": round(time.monotonic() - began),
            "seconds_calm": round(calmly),
            "identical": not wrong,
            "different": wrong[:20],
        }
        print(json.dumps(summary))
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
