"""What to type for a package that is missing."""

import os


def to_install(extra: str, packages: str, then: str = "devices") -> str:
    """The line that installs it: dev.py, which says how it was started, installs extras itself before any command."""
    command = os.environ.get("GPUBP_COMMAND", "")
    return f"GPUBP_EXTRAS={extra} {command} {then}" if "dev.py" in command else f"pip install {packages}"
