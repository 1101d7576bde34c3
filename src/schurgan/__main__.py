"""`python -m schurgan`."""

from schurgan.commands.main import main

main()
