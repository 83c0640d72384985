"""The threads that play tapes, under g++'s sanitizers: no races, no part twice or too early; planted ones are found."""

import itertools
import subprocess
from pathlib import Path

import pytest

from gpubp.kernel import SOURCES

pytestmark = [pytest.mark.check, pytest.mark.toolchain]
PLAYERS = Path(__file__).with_name("players.cpp")
COMMON = ["g++", "-std=c++17", "-g", "-pthread", f"-I{SOURCES}"]
# Threads fall asleep ten times as soon as they would, others come in between where it could do harm, and nobody goes on
# alone, however busy the machine is.
READ = "const Operation* here = operation.load();"
OFTEN = [
    ("SPIN = 200000;", "SPIN = 20000;"),
    (READ, READ + " if (seen.next % 8 == 1) sched_yield();"),
    ("now() > pool->alone_until", "true"),
]
PLAYS = 500
Changes = list[tuple[str, str]]


def built(folder: Path, sanitizer: str, changes: Changes = OFTEN) -> Path:
    """tape.cpp and the players as one program."""
    text = (SOURCES / "tape.cpp").read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} has no place"
        text = text.replace(old, new)
    (folder / "players.cpp").write_text(text + PLAYERS.read_text(encoding="utf-8"), encoding="utf-8")
    options = ["-O2", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    command = [*COMMON, *options, folder / "players.cpp", "-o", folder / "players"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return folder / "players"


def played(program: Path, threads: int, players: int, forks: bool, patience: float = 120) -> str:
    """What is wrong, or nothing."""
    environment = {"TSAN_OPTIONS": "halt_on_error=1"}
    command = [program, *map(str, (threads, PLAYS, players, int(forks)))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=patience)
    except subprocess.TimeoutExpired:
        return "it does not end"
    return done.stderr[:4000] or ("" if done.returncode == 0 else f"exit code {done.returncode}")


# Forks without the sanitizers of threads and addresses, whose own locks a child would find as they were.
@pytest.mark.parametrize(("sanitizer", "forks"), [("thread", False), ("address,undefined", False), ("undefined", True)])
def test_no_part_is_twice_or_too_early(sanitizer: str, forks: bool, tmp_path: Path) -> None:
    """Alone, and beside two others who play at the same time; on fewer threads than there are cores, and on more."""
    program = built(tmp_path, sanitizer)
    for threads, players in itertools.product((1, 2, 3, 8), (1, 3)):
        assert not played(program, threads, players, forks), f"{threads} threads, {players} players"


NEXT = "static_cast<unsigned short>(seen.next + 1)"
# What stands there, what is to stand there, and what shows it: without a sanitizer of threads, wrong results or no end.
MUTANTS: dict[str, tuple[str, str, str]] = {
    "the operation before the last has the same tickets": (
        "ticket.load().generation + 1;",
        "(ticket.load().generation + 1) % 2;",
        "undefined",
    ),
    "a part counts before it is done": (
        "here->part(seen.next);\n      done.fetch_add(1);",
        "done.fetch_add(1);\n      here->part(seen.next);",
        "thread",
    ),
    "two players have the same threads": ("mine.try_lock() && ", "", "thread"),
    "what a thread may read is written without an order": (
        "std::atomic<int> allowed{1};",
        "int allowed = 1;",
        "thread",
    ),
    "nobody waits for the others": ("done.load() != parts; ++turns", "false; ++turns", "undefined"),
    "parts of the last operation are counted too": ("    done.store(0);\n", "", "undefined"),
    "a part is done twice": (NEXT, NEXT.replace("+ 1", "+ (seen.next != 3 || done.load() > 5)"), "undefined"),
    "a part is left out": ("unsigned short>(parts), 0}", "unsigned short>(parts), 1}", "undefined"),
    "OpenBLAS is left with one": ("set_threads(threads_before);", ";", "undefined"),
    "the first to end gives OpenBLAS its threads back": ("if (--holders) return;", "--holders;", "undefined"),
    "a fork waits for nobody": ("changed.wait(lock, [] { return holders == 0; });", "", "undefined fork"),
    "nobody waits for a fork": (
        "    changed.wait(lock, [] { return !forking; });\n    if (holders",
        "    if (holders",
        "undefined fork",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_is_wrong_is_found(mutant: str, tmp_path: Path) -> None:
    old, new, how = MUTANTS[mutant]
    sanitizer, _, forks = how.partition(" ")
    program = built(tmp_path, sanitizer, [*OFTEN, (old, new)])
    assert any(
        played(program, threads, players, bool(forks), patience=5)
        for threads, players in itertools.product((2, 3, 8), (1, 3))
    )
