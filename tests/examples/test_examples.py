from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import schurgan.normality

EXAMPLE = Path(__file__).parents[2] / "examples" / "ddfn_in_your_own_loop.py"
GAP = re.compile(r"^gap: (\S+) of a real mean of (\S+), (\S+)%, exact, over 256 images$", re.MULTILINE)


def run(folder: Path, *arguments: object, script: Path = EXAMPLE, status: int = 0) -> subprocess.CompletedProcess[str]:
    """The script as a process of its own that starts in `folder`."""
    command = [sys.executable, str(script), *map(str, arguments)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve grey pictures of noise, of the size that the example trains at."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def free(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What six steps on the pictures print without a penalty."""
    return run(tmp_path_factory.mktemp("free"), pictures, "--steps", 6, "--weight", 0).stdout


def hybrid(x: np.ndarray) -> float:
    """½‖x − xᵀ‖² − 4·2 Σ Im(λᵢ)² of the pooled matrix, the estimate that DDFN takes unless told otherwise."""
    pooled = x.reshape(16, 2, 16, 2).mean((1, 3))
    return 0.5 * np.square(x - x.T).sum() - 8 * np.square(np.linalg.eigvals(pooled).imag).sum()


def test_the_example_trains_on_its_own_images_and_leaves_a_gap_and_a_picture(tmp_path):
    done = run(tmp_path, "--steps", 3)
    found = GAP.search(done.stdout)
    assert found, done.stdout
    assert all(math.isfinite(float(value)) for value in found.groups())
    assert re.search(r"^step 3: .* running gap [+-][\d.]+%$", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.size == (256, 256)
        assert np.asarray(sheet).std() > 0


def test_the_example_measures_the_pictures_that_it_is_given(pictures, free):
    found = GAP.search(free)
    assert found, free
    files = sorted(pictures.glob("*.png"))
    truth = np.mean([hybrid(np.asarray(Image.open(file), dtype=np.float64) / 255) for file in files])
    assert float(found[2]) == pytest.approx(truth, abs=0.01)  # it is printed with two decimals


def test_the_constraint_closes_the_running_gap(tmp_path, pictures, free):
    """Generated images start with a fifth less Δ² than noise has: a strong penalty takes half of that at once."""
    held = run(tmp_path, pictures, "--steps", 6, "--weight", 20).stdout
    gaps = [re.search(r"^step 6: .* running gap (\S+)%$", text, re.MULTILINE) for text in (free, held)]
    before, after = (abs(float(gap[1])) for gap in gaps if gap)
    assert before > 10
    assert after < before / 2


def test_the_example_runs_with_the_normality_folder_alone(tmp_path):
    """As `schurgan.normality` promises: the folder beside the script, and no schurgan to be found."""
    shutil.copytree(Path(schurgan.normality.__file__).parent, tmp_path / "normality")
    text = EXAMPLE.read_text("utf-8")
    assert len(re.findall(r"^\s*(?:from|import) schurgan", text, re.MULTILINE)) == 1
    hidden = "import sys\nsys.modules['schurgan'] = None\n"
    script = tmp_path / "example.py"
    script.write_text(hidden + text.replace("from schurgan.normality import", "from normality import"), "utf-8")
    assert GAP.search(run(tmp_path, "--steps", 1, script=script).stdout)


def test_the_example_refuses_pictures_that_are_not_square_in_one_sentence(tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    for number in range(2):
        Image.new("L", (32, 24)).save(folder / f"{number}.png")
    done = run(tmp_path, folder, status=1)
    assert done.stderr.count("\n") == 1
    assert "is 32x24, Δ² is defined for square images only" in done.stderr
