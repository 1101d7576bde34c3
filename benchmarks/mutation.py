"""Do the tests notice a wrong line? Small faults put into src/schurgan, one at a time, and the tests that cover them.

    python benchmarks/mutation.py map /tmp/mutation                # one run of the fast tests under coverage
    python benchmarks/mutation.py run /tmp/mutation --mutants 200
    python benchmarks/mutation.py run /tmp/mutation --tests tests/training/test_effects.py ...

`map` copies the last commit to WORK/tree and notes which test runs which lines, and for how long. `run` draws lines,
all alike, and puts a fault into each: an operator, a number, a condition, a call, a keyword or a returned value changed
or dropped. Tests of that line run in a child forked from a process with torch imported, those named like the file
first and the quickest of them first, up to the first red one. WORK/mutants.jsonl has a line a mutant, whose last one
counts, so a run that was stopped goes on; write "equivalent" there by hand for one that nobody could notice. With
`--tests` the survivors get these files as they are here. The end is a table by package, and the survivors.
"""

from __future__ import annotations

import argparse
import compileall
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mutants import Mutant, mutants, show

WARM = ("torch", "hypothesis", "pydantic", "yaml", "soundfile", "soxr", "rich", "PIL.Image", "scipy.linalg")
COLLECTING = 0.05  # seconds for each test beside its own


class Mapper:
    """A plugin of pytest that notes the time of each test, and by coverage's contexts what it and its fixtures run."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.contexts, self.seconds, self.users = coverage, [""], {}, defaultdict(set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.contexts, self.green, start = [item.nodeid], True, time.process_time()
        self.coverage.switch_context(item.nodeid)
        result = yield
        if self.green:
            self.seconds[item.nodeid] = time.process_time() - start
            for fixture in item.fixturenames:
                self.users[f"fixture {fixture}"].add(item.nodeid)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.green &= report.passed

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        self.contexts.append(f"fixture {fixturedef.argname}")
        self.coverage.switch_context(self.contexts[-1])
        try:
            return (yield)
        finally:
            self.contexts.pop()
            self.coverage.switch_context(self.contexts[-1])


def enter(tree: Path, source: Path) -> None:
    os.chdir(tree)
    sys.path[:0] = [str(source)]
    os.environ |= {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True


def make_map(work: Path) -> None:
    """Write WORK/map.json: the time of each test, and the tests of each line of each file."""
    import coverage

    tree, package = work / "tree", work / "tree/src/schurgan"
    tree.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "x", "-C", tree], input=archive, check=True)
    enter(tree, tree / "src")
    measured = coverage.Coverage(data_file=None, source=[str(package)], config_file=False)
    measured.start()
    mapper = Mapper(measured)
    pytest.main(["-q", "-m", "not slow", "-p", "no:warnings", f"--basetemp={work / 'temp'}"], plugins=[mapper])
    measured.stop()
    lines: dict[str, dict[int, list[str]]] = {}
    data, known = measured.get_data(), set(mapper.seconds)
    for path in data.measured_files():
        lines[str(Path(path).relative_to(package))] = {
            line: sorted(known.intersection(names).union(*(mapper.users[name] for name in names)))
            for line, names in data.contexts_by_lineno(path).items()
        }
    (work / "map.json").write_text(json.dumps({"seconds": mapper.seconds, "lines": lines}))


class Tests:
    """The tests of a mutant, and what they say of it."""

    def __init__(self, work: Path, most: float) -> None:
        known = json.loads((work / "map.json").read_text())
        self.most, self.tree, self.seconds, self.lines = most, work / "tree", known["seconds"], known["lines"]
        self.source, self.output = work / f"source-{os.getpid()}", work / f"output-{os.getpid()}"
        shutil.copytree(self.tree / "src", self.source)
        compileall.compile_dir(self.source, quiet=2)

    def of(self, mutant: Mutant) -> list[str]:
        """Those that run its line, or any of its file where that runs at import; one of each function's parameters."""
        lines, left, chosen = self.lines.get(mutant["file"], {}), self.most, {}
        room, stem = mutant["file"].split("/")[0], Path(mutant["file"]).stem
        names = lines.get(str(mutant["line"])) or lines.get(str(mutant["statement"])) or set().union(*lines.values())
        for name in sorted(names, key=lambda name: (stem not in name, room not in name, self.seconds[name])):
            if (function := name.partition("[")[0]) not in chosen:
                left -= self.seconds[name] + COLLECTING
                chosen |= {function: name} if left > 0 else {}
        return list(chosen.values())

    def say(self, tests: list[str], mutant: Mutant | None) -> str:
        """Return the first red test, what else went wrong, or "" where all are green."""
        if mutant:
            original = (path := self.source / "schurgan" / mutant["file"]).read_bytes()
            path.write_bytes(original[: mutant["start"]] + mutant["after"].encode() + original[mutant["end"] :])
        if not (child := os.fork()):
            try:
                os._exit(self._run(tests))
            finally:
                os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers that it left
        if mutant:
            path.write_bytes(original)
        red = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", self.output.read_text(errors="replace"), re.MULTILINE)
        return "" if code == 0 else red[1] if red else f"status {code}"

    def _run(self, tests: list[str]) -> int:
        import hypothesis

        os.setsid()
        signal.alarm(int(300 + 10 * sum(self.seconds.get(test, 1.0) for test in tests)))  # a mutant may never end
        enter(self.tree, self.source)
        os.dup2(os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True)
        hypothesis.settings.load_profile("mutation")
        temp = f"--basetemp={self.output}-temp"
        return int(pytest.main(["-x", "-q", "--tb=no", "-m", "not slow", "-p", "no:warnings", temp, *tests]))


def read(file: Path) -> dict[tuple[str, int, str], Mutant]:
    rows = map(json.loads, file.read_text().splitlines() if file.exists() else [])
    return {(row["file"], row["start"], row["after"]): row for row in rows}


def run(work: Path, count: int, seed: int, seconds: float, files: list[str]) -> None:
    for name in WARM:
        importlib.import_module(name)
    file, by_line, draw = work / "mutants.jsonl", defaultdict(list), random.Random(seed)
    known = read(file)
    for mutant in mutants(work / "tree/src/schurgan"):
        by_line[mutant["file"], mutant["line"]].append(mutant)
    drawn = [draw.choice(by_line[place]) for place in draw.sample(sorted(by_line), count)]
    todo = [each for each in drawn if (each["file"], each["start"], each["after"]) not in known]
    for name in files:
        todo = [row for row in known.values() if row["result"] == "survived"]
        shutil.copy2(name, work / "tree" / name)
    tests = Tests(work, seconds)
    for mutant in todo:
        chosen = files or tests.of(mutant)
        red = tests.say(chosen, mutant)
        mutant |= {"result": "killed" if red else "survived", "by": red or f"{len(chosen)} tests are green"}
        with open(file, "a") as written:
            written.write(json.dumps(mutant) + "\n")
        print(mutant["result"], f"{mutant['file']}:{mutant['line']}", mutant["by"], flush=True)
    killers = sorted({row["by"].partition("[")[0] for row in read(file).values() if "::" in row["by"]})
    print("without any mutant:", tests.say(killers, None) or "all that killed one are green")
    shutil.rmtree(tests.source)
    show(list(read(file).values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("map", "run"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of tests for each mutant, as map measured them")
    parser.add_argument("--tests", nargs="*", default=[], help="files that the survivors are given, as they are here")
    given = parser.parse_args()
    work = given.work.resolve()
    make_map(work) if given.action == "map" else run(work, given.mutants, given.seed, given.seconds, given.tests)
