"""docs/cli.md runs: every command that it shows, in one folder, and prints what the page says, but for the figures."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"^```(\w+)( \S+)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHECKER = doctest.OutputChecker()


def sessions() -> list[tuple[str, str]]:
    """(command, output) of the console blocks, and what runs a block of Python or writes a block ```LANGUAGE FILE."""
    found = []
    for language, file, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if file:
            found.append((f"cat > {file.strip()} << 'END'\n{body}END", ""))
        elif language == "python":
            found.append((f"{sys.executable} - << 'END'\n{body}END", ""))
        elif language == "console":
            for entry in re.split(r"^\$ ", body.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
                command, _, output = entry.partition("\n")
                found.append((command, output))
    return found


def masked(text: str) -> str:
    """Without the figures, which depend on the processor, but for exit codes."""
    return re.sub(r"(?<!exit code )(?<![\w.])\d[\d.,]*(e-\d+)?", "#", text)


def test_figures_are_masked_and_nothing_else() -> None:
    assert masked("accuracy 96.67%, 29 of 30: 2.4e-07, F1") == "accuracy #%, # of #: #, F1"
    assert masked("exit code 143") == "exit code 143"


@pytest.mark.check
@pytest.mark.skipif(os.name != "posix", reason="the page is written for a POSIX shell")
def test_the_page_runs(tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "gpubp"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpubp "$@"\n')
    shim.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "examples" / "iris.csv", work)
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}", "GPUBP_COMMAND": "gpubp"}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    assert len(sessions()) > 20
    wrong = []
    for command, expected in sessions():
        line = ["bash", "-c", command]
        ran = subprocess.run(
            line,
            cwd=work,
            env=environment,
            text=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed = "".join(line.rstrip() + "\n" for line in ran.stdout.splitlines())
        same = CHECKER.check_output(masked(expected), masked(printed), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        if ran.returncode or (expected and not same):
            wrong.append(f"$ {command}\n{printed}(exit code {ran.returncode}), but the page says\n{expected}")
    assert not wrong, "\n\n".join(wrong)
