from schurgan.cli import main

main()
