"""What is installed, and what this machine has: the first thing to put into a bug report."""

from __future__ import annotations

import importlib.metadata
import platform
import re

from schurgan.runs.messages import counted
from schurgan.version import __version__


def doctor() -> None:
    """Print what is installed and what this machine has, for a bug report.

    Example:
        schurgan doctor
    """
    import torch

    from schurgan.core.launch import count_cores

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"schurgan {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    print(f"{counted(count_cores(), 'CPU core')}, GPU: {', '.join(gpus) or 'none'}")
    for requirement in importlib.metadata.requires("schurgan") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
        try:
            # torch.__version__ also names the build: one for a CPU and one for GPUs may have the same number.
            version = torch.__version__ if name == "torch" else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        print(f"  {name:<16} {version:<12} {f'[{extra[1]}]' if extra else ''}".rstrip())
