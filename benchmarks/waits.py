"""How long a user sits before a command without a word, and how soon Ctrl-C is heard.

    python benchmarks/waits.py silences --esc50 data/ESC-50-master --out build/waits
    python benchmarks/waits.py interrupts --esc50 data/ESC-50-master --out build/waits

Every command runs on ESC-10 with standard output and error in one pipe, whose bytes are timed as they come. `silences`
prints when the first word came, and the longest wait of more than two seconds after it with the line that stood there.
`interrupts` sends SIGINT to the command's process group at several moments, as a terminal does, and prints how long
it took until the command ended, with what status, and whether a traceback or a process was left.
"""

from __future__ import annotations

import argparse
import csv
import http.server
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

LIMIT = 2.0  # seconds
MOMENTS = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0)  # seconds after the start
PROGRAM = [sys.executable, "-m", "schurgan"]


@dataclass
class Heard:
    """What came out of a command: when each piece came, and all of it."""

    seconds: float = 0.0
    status: int = 0
    pieces: list[tuple[float, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    def silences(self) -> list[tuple[float, float, str]]:
        """(from, to, what stood there) of each stretch without a byte that is longer than the limit."""
        times = [0.0, *(when for when, _ in self.pieces), self.seconds]
        shown = ["", *("".join(text for _, text in self.pieces[: i + 1]) for i in range(len(self.pieces)))]
        lines = [(text.strip().splitlines() or ["nothing"])[-1].strip() for text in shown]
        return [(a, b, line) for a, b, line in zip(times, times[1:], lines, strict=False) if b - a > LIMIT]


def listen(command: list[str], interrupt: float | None = None, twice: float | None = None) -> tuple[Heard, float]:
    """Run a command to its end; with SIGINT to its group after so many seconds, and again. The time of the first."""
    start, heard = time.monotonic(), Heard()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert process.stdout is not None
    timers = [threading.Timer(after, os.killpg, (process.pid, signal.SIGINT)) for after in (interrupt, twice) if after]
    for timer in timers:
        timer.start()
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        heard.pieces.append((time.monotonic() - start, piece.decode("utf-8", "replace").replace("\r", "\n")))
    heard.status = process.wait()
    heard.seconds = time.monotonic() - start
    for timer in timers:
        timer.cancel()
    return heard, process.pid


def session(number: int) -> list[int]:
    """Processes that are still there of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


class Bench:
    """The commands, in an order in which each finds what it needs."""

    def __init__(self, esc50: Path, out: Path, steps: int, others: dict[str, str]) -> None:
        self.esc50, self.out, self.steps, self.others = esc50, out, steps, others
        self.data, self.run, self.clips = out / "data", out / "run", out / "clips"

    def prepare(self) -> None:
        """A folder a class, an archive to fetch, and a server that has it."""
        self.out.mkdir(parents=True, exist_ok=True)
        table = list(csv.DictReader((self.esc50 / "meta" / "esc50.csv").read_text("utf-8").splitlines()))
        kept = [row for row in table if row["esc10"] == "True"]
        for row in kept if not self.clips.exists() else ():
            folder = self.clips / row["category"]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.esc50 / "audio" / row["filename"], folder)
        archive = self.out / "esc50.zip"
        if not archive.exists():
            with zipfile.ZipFile(archive, "w") as packed:
                for row in kept:
                    packed.write(self.esc50 / "audio" / row["filename"], f"ESC-50-x/audio/{row['filename']}")
                lines = [",".join(table[0]), *(",".join(row.values()) for row in kept)]
                packed.writestr("ESC-50-x/meta/esc50.csv", "\n".join(lines) + "\n")
        handler = partial(Quiet, directory=str(self.out))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def commands(self) -> dict[str, list[str]]:
        """Name of each command, and its arguments."""
        out, run, data = self.out, str(self.run), str(self.data)
        clip = sorted(str(path) for path in self.clips.glob("*/*"))[:20]
        preset = ["--preset", "small-32", "--data", data, "--train.val-fraction", "0.2"]
        size = ["--size", "32"]
        esc10 = ["prepare", "esc50", str(self.esc50), "--subset", "esc10", *size, "--out", data, "--overwrite"]
        known = {
            "--help": ["--help"],
            "doctor": ["doctor"],
            "presets": ["presets"],
            "download esc50": ["download", "esc50", "--out", str(out / "fetched")],
            "prepare esc50": esc10,
            "prepare folder": [
                "prepare",
                "folder",
                str(self.clips),
                *size,
                "--out",
                str(out / "folder"),
                "--overwrite",
            ],
            "prepare soundscape": ["prepare", "soundscape", *size, "--out", str(out / "soundscape"), "--overwrite"],
            **{
                f"prepare {name}": ["prepare", name, root, *size, "--out", str(out / name), "--overwrite"]
                for name, root in self.others.items()
            },
            "data verify": ["data", "verify", data],
            "data export": ["data", "export", data, "--out", str(out / "tars"), "--audio"],
            "train": ["train", *preset, "--out", run, "--train.steps", str(self.steps), "--train.sample-every", "50"],
            "resume (finished)": ["resume", run],
            "status": ["status", run],
            "sample": ["sample", run, "--count", "8"],
            "reconstruct": ["reconstruct", *clip, "--out", str(out / "rebuilt")],
            "report": ["report", run],
            "animate": ["animate", run],
            "animate mp4": ["animate", run, "--out", str(out / "film.mp4")],
            "evaluate --quick": ["evaluate", run, "--quick"],
            "evaluate --quick --usefulness": ["evaluate", run, "--quick", "--usefulness"],
            "evaluate": ["evaluate", run],
            "evaluate --usefulness": ["evaluate", run, "--usefulness"],
            "compare": ["compare", run, "--png", str(out / "table.png")],
            "sweep --quick": ["sweep", run, "--quick"],
            "sweep": ["sweep", run],
            "export .pt2": ["export", run, "--out", str(out / "g.pt2")],
            "export .onnx": ["export", run, "--out", str(out / "g.onnx")],
            "study --dry-run": ["study", "table1", "--dry-run"],
            "demo": ["demo", "--out", str(out / "demo")],
            "train, end of biggan-128": self._large(),
        }
        if not shutil.which("ffmpeg"):
            del known["animate mp4"]
        return known

    def _large(self) -> list[str]:
        """Two steps of a large generator, whose end takes longer than its steps."""
        small = ["--model.width", "32", "--train.batch-size", "8", "--train.steps", "2", "--train.device", "cpu"]
        run = ["--out", str(self.out / "large"), "--data", str(self.out / "data128")]
        return ["train", "--preset", "biggan-128", *small, *run]

    def clear(self, name: str) -> None:
        """What the command would find done already."""
        done = {
            "download esc50": ["fetched"],
            "data export": ["tars"],
            "train": ["run"],
            "demo": ["demo"],
            "train, end of biggan-128": ["large"],
        }
        for folder in done.get(name, []):
            shutil.rmtree(self.out / folder, ignore_errors=True)

    def line(self, name: str, arguments: list[str]) -> list[str]:
        if name == "download esc50":  # from this machine
            url = f"http://127.0.0.1:{self.server.server_port}/esc50.zip"
            remote = f"Remote({url!r}, {(self.out / 'esc50.zip').stat().st_size}, None, 'ESC-50-master', 'ESC-50-*')"
            change = f"from schurgan.data.download import REMOTES, Remote; REMOTES['esc50'] = {remote}"
            begin = "from schurgan.commands import main; main._import_torch()"  # which says so
            return [sys.executable, "-c", f"{begin}; {change}; main.main()", *arguments]
        return [*PROGRAM, *arguments]


def silences(bench: Bench, names: list[str]) -> None:
    head = "| command | seconds | first word after, s | longest wait after that, s | what stands there meanwhile |"
    print(f"{head}\n|---|---|---|---|---|", flush=True)
    for name in names:
        bench.clear(name)
        heard, _ = listen(bench.line(name, bench.commands()[name]))
        (bench.out / "logs").mkdir(exist_ok=True)
        log = "".join(f"[{when:7.2f}] {line}\n" for when, text in heard.pieces for line in text.splitlines())
        (bench.out / "logs" / f"{name.replace(' ', '_').replace('/', '_')}.log").write_text(log)
        status = "" if heard.status == 0 else f" (exit status {heard.status})"
        first = heard.pieces[0][0] if heard.pieces else heard.seconds
        later = max((each for each in heard.silences() if each[0]), key=lambda each: each[1] - each[0], default=None)
        wait = f"{later[1] - later[0]:.1f} | {later[2][:110]}" if later else f"under {LIMIT:g} | "
        print(f"| `{name}`{status} | {heard.seconds:.1f} | {first:.1f} | {wait} |", flush=True)


def interrupts(bench: Bench, names: list[str], moments: tuple[float, ...]) -> None:
    head = "| command | SIGINT after, s | words after, s | end after, s | status | last line | left behind |"
    print(f"{head}\n|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        for moment in moments:
            bench.clear(name)
            heard, number = listen(bench.line(name, bench.commands()[name]), moment)
            if heard.seconds < moment:
                break
            left = f"{len(orphans)} processes" if (orphans := session(int(number))) else ""
            left += " traceback" if "Traceback" in heard.text else ""
            left += " ".join(str(path) for path in bench.out.rglob("*.partial"))[:100]
            said = next((f"{when - moment:.2f}" for when, text in heard.pieces if when > moment and text.strip()), "")
            line = (heard.text.strip().splitlines() or [""])[-1][:80]
            row = f"`{name}` | {moment:g} | {said} | {heard.seconds - moment:.2f} | {heard.status} | {line} | {left}"
            print(f"| {row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["silences", "interrupts"])
    parser.add_argument("--esc50", type=Path, required=True, help="the unpacked data set")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "schurgan-waits")
    parser.add_argument("--steps", type=int, default=300, help="of the run")
    parser.add_argument("--source", nargs="*", default=[], metavar="NAME=DIR", help="other sources to prepare")
    parser.add_argument("--only", nargs="*", help="names of commands")
    parser.add_argument("--moments", type=float, nargs="*", default=MOMENTS)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands would ignore it as a job in the background does
    bench = Bench(given.esc50, given.out, given.steps, dict(each.split("=", 1) for each in given.source))
    bench.prepare()
    names = given.only or list(bench.commands())
    if given.what == "silences":
        silences(bench, names)
    else:
        interrupts(bench, names, tuple(given.moments))


if __name__ == "__main__":
    main()
