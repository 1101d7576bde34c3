"""The program, as `schurgan` and as `python -m schurgan`."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends imports at once, without a traceback

from schurgan.commands.main import main

if __name__ == "__main__":
    main()
