"""Make the README's pictures of a terminal: python docs/pictures/make.py [NAME]. Needs tmux, and gpubp on the PATH."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

HERE = Path(__file__).resolve().parent
WIDTH = 92
THEME = TerminalTheme(
    (24, 26, 31),
    (214, 218, 224),
    [(60, 64, 72), (224, 108, 117), (120, 190, 110), (229, 192, 123), (97, 160, 239), (198, 120, 221), (70, 180, 190),
     (214, 218, 224)],
)  # fmt: skip
SHOTS = {
    "explain": ["gpubp explain two-layer"],
    "train": ["gpubp train digits"],
    "evaluate": ["gpubp train digits -q > train.txt", "clear", "gpubp evaluate runs/digits digits"],
}


def screen(commands: list[str], folder: str) -> str:
    """What a terminal shows after these commands, with its escape codes for colours."""
    session = f"gpubp-{time.time_ns()}"

    def tmux(*arguments: str) -> str:
        return subprocess.run(["tmux", *arguments], capture_output=True, text=True, check=True).stdout

    # Each prompt, the first one too, wakes the one who waits for the session.
    shell = ["env", "PS1=$ ", f"PROMPT_COMMAND=tmux wait-for -S {session}", "COLORTERM=truecolor", "bash", "--norc"]
    tmux("new-session", "-d", "-s", session, "-x", str(WIDTH), "-y", "60", "-c", folder, *shell)
    try:
        tmux("wait-for", session)
        for command in commands:
            tmux("send-keys", "-t", session, command, "Enter")
            tmux("wait-for", session)
        time.sleep(0.5)
        return tmux("capture-pane", "-p", "-e", "-N", "-t", session)
    finally:
        tmux("kill-session", "-t", session)


def draw(name: str, commands: list[str]) -> None:
    """Write NAME.svg."""
    with tempfile.TemporaryDirectory() as folder:
        lines = list(Text.from_ansi(screen(commands, folder)).split())
    while lines and str(lines[-1]).strip() in ("", "$"):
        lines.pop()
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for line in lines:
            console.print(line, overflow="crop", no_wrap=True)
        console.save_svg(str(HERE / f"{name}.svg"), title=commands[-1], theme=THEME)


if __name__ == "__main__":
    if not shutil.which("tmux") or not shutil.which("gpubp"):
        sys.exit("tmux and gpubp are needed on the PATH")
    for name in sys.argv[1:] or SHOTS:
        draw(name, SHOTS[name])
