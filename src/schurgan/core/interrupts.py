"""Ctrl-C is heard within a second, also while Python is in a call of seconds that it cannot leave."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from schurgan.core.terminal import Guarded, say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_REQUEST = 1.0
"""Seconds in which another signal is the same request: a launcher passes on what its group gets too."""
_SOON = 0.4  # seconds in which most work ends by itself
_answers = ["stopping; Ctrl-C again ends it at once"]


@contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt in a command's process, however it was before.

    A thread says that it was heard where that does not end the work soon, and ends the process by a second one. A
    process that ignores Ctrl-C, as in the background, or catches it, goes on to do so.
    """
    ours = signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler)
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    heard, told = socket.socketpair()
    told.setblocking(False)  # as Python wants it, which writes each signal's number there at once
    wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(heard,), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        told.close()
        listener.join()
        signal.signal(signal.SIGINT, before)


def _listen(heard: socket.socket) -> None:
    """Answer each signal until the other end is closed."""
    first = 0.0
    with heard, suppress(OSError):
        while numbers := heard.recv(1):
            if first and time.monotonic() < first + _SAME_REQUEST:
                continue
            again, first = first > 0, time.monotonic()
            heard.settimeout(_SOON)
            try:
                if not heard.recv(1, socket.MSG_PEEK):
                    return
            except TimeoutError:
                pass
            heard.settimeout(None)
            if again:
                if sys.stderr is not None and sys.stderr.isatty():
                    Guarded(sys.stderr).write("\x1b[?25h\n")  # a bar hid the cursor
                os._exit(128 + numbers[0])  # no file is half written: each takes its place when it is whole
            if _answers[-1]:
                say(_answers[-1])


@contextmanager
def stop_requests(answer: str) -> Iterator[list[int]]:
    """Give a list that becomes true when SIGINT, SIGTERM or SIGHUP asks the work to stop; another stops it at once.

    `answer` is what a command says to the first, "" where another process says it. A signal that is ignored, as SIGHUP
    is under nohup, stays so.
    """
    requests: list[int] = []
    before: dict[int, Any] = {}
    first = 0.0

    def restore() -> None:
        for caught, handler in before.items():
            signal.signal(caught, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not requests:
            first = time.monotonic()
        elif time.monotonic() > first + _SAME_REQUEST:
            restore()
            signal.raise_signal(number)
        requests.append(number)

    with suppress(ValueError):  # not the main thread: signals go elsewhere
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: of a program around this one
                before[number] = signal.signal(number, note)
    _answers.append(answer)
    try:
        yield requests
    finally:
        _answers.remove(answer)
        restore()
