"""Compiles CUDA sources for the CPU and keeps what comes out, from one test session to the next."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
RUNTIME = ["emulator.cpp", "fiber.cpp"]
HEADER = HERE / "emulator.h"
KERNEL = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-Wno-unknown-pragmas"]
SANITIZERS = {
    None: [],
    "thread": ["-g", "-fsanitize=thread"],
    "address": ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}


class CompileError(Exception):
    """What g++ said."""


@functools.cache
def cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"gpubp-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else; remove it")
    return folder


@functools.cache
def fingerprint() -> bytes:
    """Of what every build depends on: the compiler and the emulator."""
    version = subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout
    return version + b"".join((HERE / name).read_bytes() for name in [*RUNTIME, HEADER.name, "fiber.h", "build.py"])


def compiled(sources: Mapping[str, str], flags: Sequence[str], suffix: str) -> Path:
    """The first of the sources compiled, with the others beside it to be included; CompileError with g++'s words."""
    folders = [Path(flag[2:]) for flag in flags if flag.startswith("-I")]
    included = [file.read_bytes() for folder in folders for file in sorted(folder.glob("*.cuh"))]
    key = hashlib.sha256(fingerprint() + repr((list(sources.items()), flags, included)).encode())
    built = cache() / (key.hexdigest()[:32] + suffix)
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            for name, text in sources.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            # The names come relative to the folder, so that messages say "columns.cuh:47".
            language = "c++-header" if suffix == ".gch" else "c++"
            command = ["g++", "-x", language, next(iter(sources)), "-x", "none", *flags, "-o", "out"]
            run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if run.returncode:
                raise CompileError(run.stderr)
            os.replace(Path(folder) / "out", built)  # at once, as another process may want it too
    return built


@functools.cache
def runtime(*flags: str) -> list[str]:
    """The emulator's own objects; no sanitizer watches them."""
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-c", f"-I{HERE}", *flags]
    return [str(compiled({name: (HERE / name).read_text(encoding="utf-8")}, options, ".o")) for name in RUNTIME]


@functools.cache
def shared_runtime() -> str:
    """One library for all kernels that a process loads, so that they share its stacks."""
    return str(compiled({"empty.cpp": ""}, ["-shared", *runtime()], ".so"))


@functools.cache
def precompiled() -> str:
    """The header as libraries include it; to read it as text took g++ a third of its time."""
    built = compiled({HEADER.name: HEADER.read_text(encoding="utf-8")}, KERNEL, ".gch")
    return str(built.with_suffix(""))  # g++ itself looks for a .gch of what it is to include


def library(sources: Mapping[str, str], *flags: str) -> Path:
    """A shared library of the kernels in the first of the sources."""
    return compiled(sources, [*KERNEL, "-include", precompiled(), *flags, "-shared", shared_runtime()], ".so")


def program(sources: Mapping[str, str], sanitizer: str | None = None, *flags: str) -> Path:
    """A program, whose `main` launches the kernels, watched by ThreadSanitizer ("thread") or AddressSanitizer."""
    options = [*KERNEL, "-include", str(HEADER), *SANITIZERS[sanitizer]]
    return compiled(sources, [*options, *runtime(*flags), "-pthread"], ".exe")


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program; one that a sanitizer stopped or complained about exits with a status that is not 0."""
    command = [str(program), *map(str, arguments)]
    # Leaks would be looked for by ptrace, which containers often forbid.
    options = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=options)
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        # Older ThreadSanitizers cannot live with how much newer kernels shuffle addresses; this turns shuffling off.
        command = ["setarch", platform.machine(), "-R", *command]
        done = subprocess.run(command, capture_output=True, text=True, env=options)
    return done
