"""The program, as `schurgan` and as `python -m schurgan`."""

import os
import signal


def program() -> None:
    """Run a command. Ctrl-C ends it without a traceback, also while it imports."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from schurgan.commands.main import main

    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    os._exit(status)  # all is flushed; Python would take a second more to put torch away


if __name__ == "__main__":
    program()
