"""RUN/metrics.jsonl as a run writes it: whole lines only, and cut back to a byte where the run is taken up again."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schurgan.runs.records import Records, read_events, read_health, read_metrics, read_records

__all__ = ["MetricsFile", "Records", "read_events", "read_health", "read_metrics", "read_records"]


class MetricsFile:
    """Lines appended one by one; a reader never sees a number that JSON does not know.

    A checkpoint keeps `size`; a run that goes on from it calls `truncate(size)`, so that no line is there twice and
    none is missing, whatever was written after the checkpoint. The file is opened for each line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def size(self) -> int:
        """Bytes of the file, 0 where there is none yet; what they say has reached the disk when this returns."""
        try:
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return 0

    def append(self, line: Mapping[str, Any]) -> None:
        """Write `line` (rows, events and evaluations alike) as one line; numbers that are not finite become null.

        Raises ValueError naming the key of a value that JSON cannot hold or a "step" that is not whole, OSError when it
        cannot be written; then the file is as it was before.
        """
        if type(line.get("step")) is not int:
            raise ValueError(f"line: its step is {line.get('step')!r}, a whole number is needed")
        text = (json.dumps({key: _plain(value, key) for key, value in line.items()}) + "\n").encode()
        with open(self.path, "ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                if file.write(text) != len(text):  # what fits is written before a full disk refuses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise

    def truncate(self, size: int) -> None:
        """Cut the file back to its first `size` bytes, as `size` was when a checkpoint was saved.

        Where that is not the end of a line of the file, because another hand has changed it or a disk lost its end, the
        lines before it are kept and a warning says so. Raises OSError when the file cannot be cut.
        """
        if size < 0:
            raise ValueError(f"size: {size} given, 0 or more bytes are needed")
        if size == 0 and not self.path.exists():
            return
        self.path.touch()
        with open(self.path, "r+b") as file:
            kept = file.read(size)
            end = kept.rfind(b"\n") + 1
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
        if end != size:
            why = f"its first {size} bytes are not those that the checkpoint knew"
            warnings.warn(f"{self.path}: {why}; the lines up to byte {end} are kept", stacklevel=2)


def _plain(value: Any, key: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{key}[{i}]") for i, inner in enumerate(value)]
    raise ValueError(f"{key}: {type(value).__name__} given, a plain value that JSON can hold is needed")
