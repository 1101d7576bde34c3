"""The example of a monitor in a foreign loop, run as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "watch_your_own_loop.py"


def run(folder: Path, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_watched_loop_finds_the_spoiled_data_goes_back_before_them_and_recovers(tmp_path):
    said = run(tmp_path, "--steps", 900, "--spoil", 500)
    found = re.search(r"^collapsed since step (\d+); back to step (\d+)$", said, re.MULTILINE)
    assert found, said
    onset, back = map(int, found.groups())
    # An evaluation every 50 steps: the generator follows the data within a few.
    assert 500 <= onset <= 700
    assert back < 500
    assert "variety within a class" in said
    end = re.search(r"^end: step 900, variety (\S+) of", said, re.MULTILINE)
    assert end, said
    assert float(end[1]) == pytest.approx(1, abs=0.3)


def test_the_watched_loop_that_nothing_spoils_has_nothing_to_say(tmp_path):
    said = run(tmp_path, "--steps", 900, "--spoil", 0)
    assert said.count("\n") == 1
    assert said.startswith("end: step 900, ")
