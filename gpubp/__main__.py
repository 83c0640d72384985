"""`python -m gpubp` is the `gpubp` command."""

from gpubp.cli import main

main(prog_name="gpubp")
