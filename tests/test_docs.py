"""The documentation runs: doctests of every module, the Python in the pages, and the commands they show."""

import doctest
import importlib
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import gpubp
from gpubp.cli import main
from gpubp.kernel import KERNELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FOUND = pkgutil.walk_packages(gpubp.__path__, "gpubp.")
MODULES = sorted({"gpubp", *(module.name for module in FOUND)} - {"gpubp.__main__"})
BLOCK = re.compile(r"^(?P<fence>```+|~~~+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)", re.MULTILINE | re.DOTALL)
TYPED = ("python3 dev.py test -x", "gpubp train digits --epochs 3", "pip install fly", "python -m gpubp devices")
# What dev.py does by itself; everything else it hands to gpubp.
DEV_COMMANDS = {"test", "check", "lint", "python", "help", "-h", "--help"}


@pytest.fixture
def registries() -> Iterator[None]:
    """A page may define components of its own; other tests are not to meet them."""
    families = (gpubp.Activation, gpubp.Loss, gpubp.Optimizer, gpubp.Schedule, gpubp.Initializer)
    kept = [(table, dict(table)) for table in (KERNELS, *(family.members for family in families))]
    yield
    for table, entries in kept:
        table.clear()
        table.update(entries)


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(first line's number, text) of each fenced block in one of these languages."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start("body")) + 1, match["body"])
        for match in BLOCK.finditer(text)
        if match["language"] in languages
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_modules_are_found() -> None:
    assert {"gpubp", "gpubp.mlp", "gpubp.cli.train", "gpubp.data.split", "gpubp.backends.cupy"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_doctests() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test.name for module in MODULES for test in finder.find(importlib.import_module(module)) if test.examples]
    assert {"gpubp.mlp.MLP", "gpubp.data.split.train_test_split"} <= set(found)


def test_the_readme_shows_python() -> None:
    assert blocks(ROOT / "README.md", "python")


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=name)  # it runs as a whole
def test_python_in(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in their order, in one namespace; what is written as a session is compared too."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for line, body in blocks(page, "python"):
        if ">>>" in body:
            session = doctest.DocTestParser().get_doctest(body, namespace, name(page), str(page), line - 1)
            runner.run(session, clear_globs=False)
            namespace.update(session.globs)
        else:
            # The empty lines give a failure the page's own line numbers.
            exec(compile("\n" * (line - 1) + body, str(page), "exec"), namespace)
    assert runner.summarize(verbose=False).failed == 0


def commands(page: Path) -> list[list[str]]:
    """The words of each line of a console or sh block that a reader is to type."""
    found = []
    for _, body in blocks(page, "console", "sh", "shell", "bash"):
        lines = body.replace("\\\n", " ").splitlines()
        typed = [line for line in lines if line.startswith("$ ")]  # where there are any, the rest is what is printed
        for line in typed or lines:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]  # an environment variable for the command
            if words[:2] in (["mpiexec", "-n"], ["srun", "-n"]):
                del words[:3]
            found.append(words)
    return found


def unknown(words: list[str]) -> str | None:
    """What is wrong with a command that starts gpubp; None where nothing is, or where it starts something else."""
    if words[:2] in (["python3", "dev.py"], ["python", "dev.py"]):
        if (rest := words[2:]) and rest[0] in DEV_COMMANDS:
            return None
    elif words[:1] == ["gpubp"]:
        rest = words[1:]
    elif words[1:3] == ["-m", "gpubp"]:
        rest = words[3:]
    else:
        return None
    if not rest or rest[0] in ("-h", "--help", "--version", ">"):
        return None
    context = click.Context(main, **main.context_settings)
    if (command := main.get_command(context, rest[0])) is None:
        return f"no subcommand {rest[0]!r}"
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    options = [word.partition("=")[0] for word in rest[1:] if re.match(r"--?[a-z]", word)]
    missing = [option for option in options if option not in known]
    return f"{rest[0]} has no option {', '.join(missing)}" if missing else None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in(page: Path) -> None:
    wrong = [(shlex.join(words), unknown(words)) for words in commands(page)]
    assert [pair for pair in wrong if pair[1]] == []


def test_the_check_of_commands_can_fail() -> None:
    assert unknown(["gpubp", "fly"]) == "no subcommand 'fly'"
    assert unknown(["python3", "dev.py", "train", "digits", "--wings=2"]) == "train has no option --wings"
    for line in TYPED:
        assert unknown(line.split()) is None


def test_the_readme_tells_how_to_start() -> None:
    assert any(words[:3] == ["python3", "dev.py", "train"] for words in commands(ROOT / "README.md"))
