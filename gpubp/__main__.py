"""`python -m gpubp` is the `gpubp` command."""

import os

from gpubp.cli import main

os.environ.setdefault("GPUBP_COMMAND", "python -m gpubp")
main(prog_name="gpubp")
