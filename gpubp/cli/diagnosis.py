"""What `train --diagnose` leaves: words on the terminal, and two files in the folder of the run."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from gpubp.cli.run import DIAGNOSIS, PICTURE
from gpubp.explain.diagnosis import Diagnosis
from gpubp.whole import write_whole


def findings(watch: Diagnosis | None) -> dict[str, Any]:
    """What goes into the JSON of a training: nothing where it was not watched."""
    return {"findings": [asdict(finding) for finding in watch.findings()]} if watch else {}


def write_diagnosis(watch: Diagnosis, folder: Path) -> str:
    """The records and, where matplotlib is installed, the picture; returns what there is to say of it."""
    write_whole(folder / DIAGNOSIS, f"{watch.to_json()}\n".encode())
    if not find_spec("matplotlib"):
        return "a picture of it needs matplotlib: pip install 'gpubp[plot]'"
    watch.plot(folder / PICTURE)
    return f"drawn in {folder / PICTURE}"


def tell_diagnosis(watch: Diagnosis, remark: str) -> None:
    console = Console(highlight=False)
    names = [f"{finding.name}:" for finding in watch.findings()]
    console.print()
    for line in str(watch).splitlines():
        text = Text(line.lstrip())
        text.highlight_words(names, "bold red")
        text.highlight_words(["nothing wrong"], "bold green")
        indent = " " * (len(line) - len(text))
        for part in text.wrap(console, console.width - len(indent)):
            part.rstrip()
            console.print(Text(indent) + part, soft_wrap=True)
    if remark:
        console.print(Text(remark), soft_wrap=True)
