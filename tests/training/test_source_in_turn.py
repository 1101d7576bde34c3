from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schurgan.core.errors import SchurganError
from schurgan.core.files import lock
from schurgan.data.sources import open_source
from schurgan.training.run import _with_data


@pytest.mark.parametrize("launched", [True, False])
def test_processes_of_one_launcher_prepare_a_source_in_turn_and_others_are_refused(
    launched: bool, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if launched:
        for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", "1")

    def prepare_as_rank_0(held) -> None:
        time.sleep(0.3)
        held.__exit__(None, None, None)

    source = open_source("soundscape", per_class=2, seconds=0.5)
    with ThreadPoolExecutor(1) as other:
        held = lock(tmp_path / "run" / "data")
        other.submit(held.__enter__).result()
        other.submit(prepare_as_rank_0, held)
        if launched:
            assert len(_with_data(tiny(), source, tmp_path / "run")[1]) == 16
        else:
            with pytest.raises(SchurganError, match="in use by"):
                _with_data(tiny(), source, tmp_path / "run")
