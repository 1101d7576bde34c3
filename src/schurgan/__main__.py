from schurgan.commands.main import main

main()
