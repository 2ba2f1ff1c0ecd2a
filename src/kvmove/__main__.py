"""`python -m kvmove` is the command line."""

from kvmove.cli.main import main

main()
