"""Native kernels are compiled once and kept whole; without a compiler, or with a bad one, NumPy's run and say why."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trained import gpubp_

import gpubp
from gpubp.backends import compiler, get_backend, tape
from gpubp.backends.compiler import Compiler
from gpubp.backends.native import NativeBackend
from gpubp.errors import DataError, DeviceError

pytestmark = [
    pytest.mark.check,
    pytest.mark.skipif(os.name != "posix", reason="native kernels need POSIX threads"),
]
TWO = 'extern "C" int two() { return 2; }'


@pytest.fixture(autouse=True)
def first_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been asked for yet, with a folder of its own for what is compiled."""
    asked = tape._engine_or_reason
    monkeypatch.setattr(tape, "_engine_or_reason", functools.lru_cache(**asked.cache_parameters())(asked.__wrapped__))
    monkeypatch.setenv("GPUBP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GPUBP_NATIVE", "auto")
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a compiler of a shell script, and $CXX of it."""

    def make(text: str) -> Path:
        path = tmp_path / "a compiler"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", f"'{path}'")
        return path

    return make


def files(folder: Path) -> set[str]:
    """All of them, those with names that begin with a dot too."""
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def is_numpys(reason: str) -> bool:
    """Whether a network trains on NumPy's kernels, for this reason, and it is an error where native ones are a must."""
    backend = get_backend("cpu")
    assert backend.describe()["kernels"] == f"NumPy's kernels: {reason}"
    net = gpubp.MLP([2, 2], device="cpu", seed=0)
    net.train_step(np.ones((3, 2)), [0, 1, 1], gpubp.SGD(0.1))
    assert f"NumPy's kernels: {reason.split('; ')[0]}" in gpubp_("devices").stdout
    found = gpubp_("devices", GPUBP_NATIVE="1")
    assert (found.exit_code, found.stdout) == (3, "")
    assert found.stderr == f"error: GPUBP_NATIVE=1, but {reason}\n"
    return not isinstance(backend, NativeBackend)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_numpys("no C++ compiler is on the PATH; install g++")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("nowhere", "CXX='nowhere' is not on the PATH; set it to a C++ compiler, or unset it"),
        ("/", "CXX='/' is not on the PATH; set it to a C++ compiler, or unset it"),
        ("g++ 'O2", 'CXX="g++ \'O2" is no command: No closing quotation'),
    ],
)
def test_a_compiler_that_is_none(given: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", given)
    assert is_numpys(reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 3", "does not compile gpubp_tape: exit code 3"),
        ("kill -9 $$", "does not compile gpubp_tape: exit code -9"),
        (r"printf '\377 is no letter\nmore\n' >&2; exit 1", "does not compile gpubp_tape: � is no letter"),
        ("exit 0", "cannot compile gpubp_tape: [Errno 2] No such file or directory: "),
        ("cat > /dev/null; for last; do :; done; echo nonsense > $last", "cannot be loaded ("),
        ("sleep 60", "has not compiled gpubp_tape in 0 s"),
    ],
)
def test_a_compiler_that_fails(
    text: str, reason: str, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(text)
    monkeypatch.setattr(compiler, "PATIENCE", 0.3)
    kernels = get_backend("cpu").describe()["kernels"]
    assert kernels.startswith("NumPy's kernels: ")
    assert reason in kernels
    script("exit 0")
    assert get_backend("cpu").describe()["kernels"] == kernels, "it is asked once"


def test_a_compiler_that_fails_later(script: Callable[[str], Path]) -> None:
    """In the middle of a training there is no falling back in silence."""
    script("exit 3")
    kernel = tape.NativeKernel("elementwise", "bias_tanh", "activations.cuh", "float", ())
    with pytest.raises(DeviceError, match="does not compile gpubp_bias_tanh: exit code 3; GPUBP_NATIVE=0 does without"):
        tape.Engine._compiled(SimpleNamespace(compiler=Compiler()), kernel)


@pytest.mark.parametrize("given", ["2", "yes", ""])
def test_another_wish_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_NATIVE", given)
    with pytest.raises(DataError, match=f"GPUBP_NATIVE must be 'auto', '0' or '1', got '{given}'"):
        gpubp.MLP([2, 2], device="cpu")
    assert gpubp_("devices").exit_code == 4


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is compiled."""
    names: list[str] = []
    usual = Compiler._compiled

    def compiled(self: Compiler, name: str, text: str) -> bytes:
        names.append(name)
        return usual(self, name, text)

    monkeypatch.setattr(Compiler, "_compiled", compiled)
    return names


@pytest.mark.toolchain
def test_a_library_is_compiled_once(made: list[str], tmp_path: Path) -> None:
    for _ in range(3):
        assert Compiler().library("two", TWO).two() == 2
    assert made == ["two"]
    (file,) = files(tmp_path / "cache")
    assert file.startswith("two-")
    assert file.endswith(".so")


@pytest.mark.toolchain
def test_what_else_decides_makes_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text, the headers, the options, the compiler, its version, and the processor."""
    keys, usual = [Compiler()._key(TWO), Compiler()._key(TWO + " ")], Compiler().command

    def add(target: object, name: str, value: object) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(target, name, value)
            keys.append(Compiler()._key(TWO))

    add(compiler, "digest", lambda: "other device functions")
    add(compiler, "OPTIONS", (*compiler.OPTIONS, "-DNDEBUG"))
    add(compiler, "processor_flags", lambda: "another processor")
    (tmp_path / "host.hpp").write_text("other loops")
    add(compiler, "SOURCES", tmp_path)
    add(compiler, "command", lambda: [*usual, "-m32"])
    link = tmp_path / "g++"
    link.symlink_to(sys.executable)
    add(compiler, "command", lambda: [str(link)])
    add(compiler, "identity", lambda path: ("the same file", "of another day"))
    assert len(set(keys)) == len(keys) == 9
    assert Compiler()._key(TWO) == keys[0]


@pytest.mark.toolchain
@pytest.mark.parametrize("size", [0, 100, 4096, 9000, -1])
def test_a_file_that_was_cut_short_is_made_anew(size: int, made: list[str], tmp_path: Path) -> None:
    """To load one would kill the process, without an error."""
    Compiler().library("two", TWO)
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.unlink()  # and not shortened in place: it is loaded
    path.write_bytes(whole[:size])
    assert Compiler().library("two", TWO).two() == 2
    assert made == ["two", "two"]
    assert compiler.is_whole(path.read_bytes())


@pytest.mark.toolchain
def test_a_file_that_was_written_over_is_made_anew(made: list[str], tmp_path: Path) -> None:
    Compiler().library("two", TWO)
    (path,) = (tmp_path / "cache").iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    path.unlink()
    path.write_bytes(damaged)
    assert Compiler().library("two", TWO).two() == 2
    assert made == ["two", "two"]


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_cache_that_cannot_be_written(tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning, and a folder that ends with the compiler."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPUBP_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    mine = Compiler()
    with pytest.warns(UserWarning, match="cannot be kept, .* set GPUBP_CACHE to a folder that can be written"):
        assert mine.library("two", TWO).two() == 2
    assert mine.library("two", TWO).two() == 2
    assert mine.library("three", TWO.replace("2", "3")).two() == 3
    assert made == ["two", "three"]
    assert len(files(tmp_path / "temporary")) == 1
    if not (child := os.fork()):
        del mine
        os._exit(0)
    os.waitpid(child, 0)
    assert len(files(tmp_path / "temporary")) == 1, "a child's end is not the end"
    del mine
    assert files(tmp_path / "temporary") == set()


@pytest.mark.toolchain
@pytest.mark.filterwarnings("ignore:compiled kernels cannot be kept")
def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GPUBP_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert Compiler().library("two", TWO).two() == 2


@pytest.mark.toolchain
def test_a_cache_by_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader takes a name without a folder for one of the system's libraries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPUBP_CACHE", ".")
    assert [Compiler().library("two", TWO).two() for _ in range(2)] == [2, 2]
    assert len(list(tmp_path.glob("two-*.so"))) == 1


@pytest.mark.toolchain
def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(line: list[str], **options: object) -> None:
        Path(line[-1]).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Compiler().library("two", TWO)
    assert files(tmp_path / "cache") == files(tmp_path / "temporary") == set()


# -- processes ---------------------------------------------------------------------------------------------------------

TRAIN = """
import numpy, sys, gpubp
net = gpubp.MLP([8, 6, 3], device="cpu", seed=0)
print("begun", flush=True)
x, y = numpy.arange(160).reshape(20, 8) / 100, numpy.arange(20) % 3
print(net.fit(x, y, epochs=int(sys.argv[1]), verbose=0).stopped)
print(net.weights[0].tobytes().hex())
print(gpubp.devices()[0]["kernels"])
"""


def train(epochs: int = 2) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GPUBP_NATIVE": "auto"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(epochs)], env=environment, start_new_session=True, **pipes
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, "it has ended"
        time.sleep(0.01)


def left(folder: Path) -> set[str]:
    """What is there, each file whole."""
    assert all(compiler.is_whole(path.read_bytes()) for path in folder.glob("*")), files(folder)
    return files(folder)


@pytest.mark.check
@pytest.mark.toolchain
def test_processes_that_compile_at_once(tmp_path: Path) -> None:
    """Into an empty folder: each trains to the same bits, and of every kernel there is one file."""
    said = [process.communicate(timeout=120)[0] for process in [train() for _ in range(4)]]
    assert len(set(said)) == 1, said
    assert "\nfinished\n" in said[0]
    assert "native kernels" in said[0]
    found = left(tmp_path / "cache")
    assert len(found) > 5
    assert len({name.rpartition("-")[0] for name in found}) == len(found)


@pytest.mark.check
@pytest.mark.toolchain
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_while_it_compiles(
    number: signal.Signals, script: Callable[[str], Path], tmp_path: Path
) -> None:
    """Half of a library has been written then."""
    script(f"cat > /dev/null; for last; do :; done; echo half > $last; touch {tmp_path}/begun; sleep 5")
    process = train()
    wait_for(tmp_path / "begun", process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode
    assert files(tmp_path / "cache") == set()


@pytest.mark.check
@pytest.mark.toolchain
def test_ctrl_c_while_a_step_is_compiled_ends_the_training_with_that_step(
    script: Callable[[str], Path], tmp_path: Path
) -> None:
    """A terminal sends it to the compiler too, which would give up."""
    script(f'if [ -e {tmp_path}/slow ]; then touch {tmp_path}/begun; sleep 0.5; fi; exec g++ "$@"')
    process = train(100_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    (tmp_path / "slow").touch()
    wait_for(tmp_path / "begun", process)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said.startswith("interrupted\n"), said
