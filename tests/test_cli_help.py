"""Help and completion: fast, with examples that parse, in every shell; and no colours where they are not wanted."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from trained import flowers, gpubp_, run

from gpubp.activations import Activation
from gpubp.cli import main
from gpubp.optimizers import Optimizer

COMMANDS = ["train", "evaluate", "predict", "explain", "check", "export", "bench", "devices"]
HEAVY = ["numpy", "rich", "safetensors", "polars", "matplotlib", "onnx", "onnxruntime", "sklearn", "cupy", "torch"]
CONTEXT = click.Context(main, **main.context_settings)  # of these, as commands keep the -h that they first heard of
posix = pytest.mark.skipif(os.name != "posix", reason="terminals as POSIX has them")


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=str)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, json; from gpubp.cli import main; main(sys.argv[1:], prog_name='gpubp', standalone_mode=False);"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *arguments]
    text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout
    page, loaded = text.rstrip().rsplit("\n", 1)
    assert page.startswith(("Usage: gpubp ", "gpubp, version "))
    assert json.loads(loaded) == []


def examples(command: str) -> Iterator[list[str]]:
    """The arguments of each `gpubp` in the help page's block of examples; those of another command are another's."""
    page = main.get_command(CONTEXT, command)
    assert page is not None
    (block,) = re.findall("\b\n(.*?)\n\n", f"{page.help}\n\n", re.DOTALL)
    for line in block.splitlines():
        assert len(line) <= 100
        for words in map(shlex.split, line.strip().partition("  ")[0].split("|")):
            if words[0] == "gpubp":
                yield words[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse(command: str) -> None:
    found = list(examples(command))
    assert found
    for name, *arguments in found:
        assert name == command
        parsed = main.get_command(CONTEXT, name).make_context(name, list(arguments), CONTEXT)  # type: ignore[union-attr]
        assert parsed.params


def test_each_command_is_listed_with_what_it_does() -> None:
    page = gpubp_("--help").stdout
    assert gpubp_("-h").stdout == page
    for command in COMMANDS:
        assert re.search(rf"^  gpubp {command}\b.*  \w", page, re.MULTILINE)
        assert re.search(rf"^  {command} +[A-Z].*\.$", page, re.MULTILINE)
    without = CliRunner().invoke(main, [])
    assert without.exit_code in (0, 2)
    assert "Commands:" in without.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    page = main.get_command(CONTEXT, command)
    assert page is not None
    for option in page.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.help[-1] in ".)"


# -- completion --------------------------------------------------------------------------------------------------------


def completions(shell: str, line: str, **environment: str) -> list[tuple[str, str]]:
    """(kind, value) of what the shell is told for the last word of a line."""
    words = line.split(" ")
    here = words[-1] if shell == "fish" else str(len(words) - 1)
    variables = {"_GPUBP_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": here, **environment}
    result = CliRunner().invoke(main, [], env=variables, prog_name="gpubp")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    if shell == "zsh":
        return list(zip(lines[::3], lines[1::3], strict=True))
    pairs: list[Any] = [tuple(entry.split(",", 1)) for entry in lines]
    return [(kind, value.split("\t")[0]) for kind, value in pairs]


SHELLS = pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])


@SHELLS
def test_completion_of_every_kind_of_word(shell: str) -> None:
    def values(line: str) -> list[str]:
        return [value for _, value in completions(shell, line)]

    assert values("gpubp t") == ["train"]
    assert set(values("gpubp ")) == set(COMMANDS)
    assert completions(shell, "gpubp train dig") == [("plain", "digits"), ("file", "dig")]
    assert completions(shell, "gpubp train mn")[0] == ("plain", "mnist")
    assert completions(shell, "gpubp evaluate runs/a dig")[0] == ("plain", "digits")
    assert completions(shell, "gpubp predict runs/a dat") == [("file", "dat")]
    assert completions(shell, "gpubp evaluate ru") == [("file", "ru")]
    assert completions(shell, "gpubp train digits --out ru")[0][0] in ("file", "dir")
    assert set(values("gpubp train digits --activation ")) == set(Activation.members)
    assert values("gpubp train digits --activation si") == ["sigmoid", "silu"]
    assert set(values("gpubp train digits --optimizer ada")) == {n for n in Optimizer.members if n.startswith("ada")}
    assert values("gpubp train digits --ep") == ["--epochs"]
    assert set(values("gpubp evaluate --m")) == {"--min", "--max"}
    assert values("gpubp evaluate runs/a digits --split te") == ["test"]


@SHELLS
def test_the_script_that_a_shell_is_to_source(shell: str) -> None:
    result = CliRunner().invoke(main, [], env={"_GPUBP_COMPLETE": f"{shell}_source"}, prog_name="gpubp")
    assert result.exit_code == 0
    assert f"_GPUBP_COMPLETE={shell}_complete" in result.stdout
    assert "gpubp" in result.stdout


@posix
def test_bash_takes_the_script(tmp_path: Path) -> None:
    """As at a prompt: bash itself asks for the words, through the function that the script defines."""
    shim = tmp_path / "gpubp"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m gpubp "$@"\n')
    shim.chmod(0o755)
    script = (
        "source <(_GPUBP_COMPLETE=bash_source gpubp); COMP_WORDS=(gpubp train digits --act); COMP_CWORD=3; "
        '_gpubp_completion gpubp --act digits; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(sys.path)}
    bash = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert bash.stdout == "--activation\n", bash.stderr


# -- colours -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flowers(tmp_path_factory.mktemp("help") / "flowers.csv")


def commands(table: Path, folder: Path) -> list[list[object]]:
    model = table.with_name("model")
    if not model.exists():
        assert gpubp_("train", table, "--epochs", "2", "--hidden", "4", "-q", "-o", model).exit_code == 0
    return [
        ["train", table, "--epochs", "1", "--hidden", "4", "--device", "cpu", "-o", folder / "run"],
        ["evaluate", model, table],
        ["predict", model, table, "--proba"],
    ]


@pytest.mark.parametrize("which", [0, 2], ids=["train", "predict"])  # and evaluate in test_report.py
def test_no_escape_codes_in_a_pipe(which: int, table: Path, tmp_path: Path) -> None:
    process = run(*commands(table, tmp_path)[which], env={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    assert process.returncode == 0
    assert process.stdout
    assert "\x1b" not in process.stdout + process.stderr


@posix
@pytest.mark.parametrize(
    ("which", "wanted"),
    [(0, True), (0, False), (1, True), (1, False), (2, True)],
    ids=["train", "train, NO_COLOR", "evaluate", "evaluate, NO_COLOR", "predict"],
)
def test_a_terminal_gets_colours_unless_it_wants_none(which: int, wanted: bool, table: Path, tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    kept |= {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "gpubp", *map(str, commands(table, tmp_path)[which])]
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, env=kept | ({} if wanted else {"NO_COLOR": "1"}), **streams)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"prediction" in shown or b"accuracy" in shown
    coloured = bool(re.search(rb"\x1b\[[\d;]*\b([34]\d|[34]8;[\d;]+)m", shown))
    assert coloured is (wanted and which < 2)
