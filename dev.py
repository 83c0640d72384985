#!/usr/bin/env python3
"""Run gpubp from a checkout; all it needs is Python 3.11 or newer.

    python3 dev.py train digits        any gpubp command (train, evaluate, predict, explain, export, bench, devices)
    python3 dev.py check MODEL DATA    gpubp check, too; without two names it is:
    python3 dev.py test [...]          the tests; the arguments go to pytest
    python3 dev.py check [...]         the slow and external proofs (pytest -m check); CUDA wheels, but no GPU
    python3 dev.py lint                ruff check, ruff format --check, mypy
    python3 dev.py python [...]        this checkout's Python: python3 dev.py python -m bench.peers

Everything is installed into .venv beside this file, once. GPUBP_EXTRAS=cuda13 adds extras of
pyproject.toml. The commands of gpubp are described in docs/cli.md, and by python3 dev.py train --help.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "gpubp-installed.json"
EXTRAS = {"test": {"test"}, "check": {"test", "check"}, "lint": {"test", "dev"}, "python": {"test", "peers"}}
LINT = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
NO_PIP = """dev.py: this Python can install nothing: it has neither ensurepip nor pip 22.3 or newer.
Install one of them and try again. Debian and Ubuntu: sudo apt install python3-venv"""


def say(text):
    print("dev.py: " + text, file=sys.stderr, flush=True)  # stdout belongs to the command


def works(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def make_venv():
    """Make .venv, with pip where this Python can (Debian may have left ensurepip out)."""
    create = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    if not works(*create) and subprocess.call([*create, "--without-pip"]):
        sys.exit("dev.py: cannot make " + str(VENV))


def pip():
    """The command line of a pip that installs into .venv: its own, or else that of the running Python."""
    for command in ([str(PYTHON), "-m", "pip"], [sys.executable, "-m", "pip", "--python", str(PYTHON)]):
        if works(*command, "--version"):
            return command
    sys.exit(NO_PIP)


def install(extras):
    """Make .venv hold this checkout, editable, with the extras; do nothing where the stamp says that it does."""
    import tomllib  # new in Python 3.11: an older one must come as far as the line that refuses it

    version = list(sys.version_info[:2])
    toml = (HERE / "pyproject.toml").read_bytes()
    project = hashlib.sha256(toml + os.fsencode(HERE)).hexdigest()
    known = tomllib.loads(toml.decode())["project"]["optional-dependencies"]
    if not extras <= set(known):
        say(f"GPUBP_EXTRAS: no extra is named {', '.join(extras - set(known))}; there are: {', '.join(known)}")
        sys.exit(2)
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        stamp = {"python": version}
    remake = stamp["python"] != version or not PYTHON.exists()
    if not remake and stamp.get("project") == project:
        if extras <= set(stamp["extras"]):
            return
        extras = extras | set(stamp["extras"])
    names = f"[{','.join(sorted(extras))}]" if extras else ""
    say(f"installing gpubp{names} into .venv")
    try:
        if remake:
            make_venv()
        command = [*pip(), "install", "-qq", "--disable-pip-version-check", "-e", f"{HERE}{names}"]
    except BaseException:  # Ctrl-C too: half an environment would stand in the way of the next try
        if remake:
            shutil.rmtree(VENV, ignore_errors=True)
        raise
    STAMP.unlink(missing_ok=True)
    code = subprocess.call(command)
    if code:
        say(f"the installation failed: {shlex.join(command)}")
        sys.exit(code)
    STAMP.write_text(json.dumps({"project": project, "python": version, "extras": sorted(extras)}))


def become(*command):
    """Hand over to .venv's Python: its exit code is ours, and signals reach it."""
    if os.name == "posix":
        os.execv(PYTHON, [str(PYTHON), *command])
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the child by itself and must not end the wait
    sys.exit(subprocess.call([str(PYTHON), *command]))


def main(name="--help", *rest):
    if name in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    if name == "check" and len(rest) > 1 and not any(rest[0].startswith(start) for start in ("-", "tests")):
        name, rest = "gpubp", ("check", *rest)  # gpubp's own command of that name, of a MODEL and DATA
    install(EXTRAS.get(name, set()) | set(os.environ.get("GPUBP_EXTRAS", "").replace(",", " ").split()))
    if name not in EXTRAS:
        os.environ["GPUBP_COMMAND"] = ("python " if os.name == "nt" else "python3 ") + shlex.quote(sys.argv[0])
        become("-P", "-m", "gpubp", *([] if name == "gpubp" else [name]), *rest)
    os.chdir(HERE)
    if name == "lint":
        sys.exit(any([subprocess.call([str(PYTHON), "-m", *tool]) for tool in LINT]))
    become(*([] if name == "python" else ["-m", "pytest"]), *(["-m", "check"] if name == "check" else []), *rest)


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("dev.py: gpubp needs Python 3.11 or newer; this is %s: %s" % (sys.version.split()[0], sys.executable))
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
