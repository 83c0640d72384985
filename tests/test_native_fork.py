"""A child of fork, which has none of the threads, trains to the same bits, whatever others were doing."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from native_nets import bits, net_on, sample, threads

import gpubp
from gpubp.backends.blas import Blas, blas
from gpubp.backends.native import NativeBackend

pytestmark = [
    pytest.mark.check,
    pytest.mark.toolchain,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
PATIENCE = 60.0  # seconds


def trained(seed: int = 0) -> bytes:
    x, y = sample(150, 60, 10, seed)
    net, optimizer = net_on(NativeBackend, 60, 120, 10, seed=seed), gpubp.Adam(0.01)
    for _ in range(3):
        net.train_step(x, y, optimizer)
    return bits(net)


@pytest.fixture
def openblas() -> Iterator[Blas]:
    known = blas()
    if known is None:
        pytest.skip("NumPy's BLAS is no OpenBLAS that can be called")
    with threads(2, 2):
        yield known


def in_a_child(check: Callable[[], bool]) -> bool:
    """What a child says of it; False too where it does not end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = not check()
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)
    return os.waitstatus_to_exitcode(ended[1]) == 0


def test_a_child_and_its_child(openblas: Blas) -> None:
    """With as many threads as ever, in all of them."""
    expected = trained()

    def well() -> bool:
        return openblas.threads() == 2 and trained() == expected and openblas.threads() == 2

    assert in_a_child(lambda: well() and in_a_child(well) and well())
    assert not in_a_child(lambda: False), "the test can fail"
    assert well()


def test_a_child_with_a_number_of_its_own(openblas: Blas) -> None:
    trained()

    def set_to_three() -> bool:
        ctypes.CFUNCTYPE(None, ctypes.c_int)(openblas.set_threads)(3)
        trained()
        return openblas.threads() == 3

    assert in_a_child(set_to_three)
    assert openblas.threads() == 2


@pytest.mark.parametrize("forks", [5, pytest.param(300, marks=pytest.mark.check)])
def test_a_fork_while_others_are_in_the_middle_of_steps(forks: int, openblas: Blas) -> None:
    """Which hold locks and have set OpenBLAS to one thread; a child must find neither."""
    expected, done = trained(), threading.Event()

    def train() -> None:
        while not done.is_set():
            trained(1)

    others = [threading.Thread(target=train) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(forks):
            assert in_a_child(lambda: openblas.threads() == 2 and trained() == expected)
    finally:
        done.set()
        for other in others:
            other.join()
    assert openblas.threads() == 2
    assert trained() == expected


@pytest.mark.check
def test_processes_of_multiprocessing(openblas: Blas) -> None:
    expected = [trained(seed) for seed in range(8)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(trained, range(8)).get(PATIENCE) == expected


JOBLIB = """
import sys, joblib
from test_native_fork import trained

if __name__ == "__main__":
    expected = [trained(seed) for seed in range(6)]
    for backend in ("loky", "multiprocessing", "threading"):
        found = joblib.Parallel(3, backend=backend)(joblib.delayed(trained)(seed) for seed in range(6))
        print(backend, found == expected)
"""


@pytest.mark.check
def test_processes_of_joblib() -> None:
    """Which scikit-learn starts. loky gives its workers a share of the cores in OPENBLAS_NUM_THREADS."""
    pytest.importorskip("joblib")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", JOBLIB], env=environment, capture_output=True, text=True, timeout=4 * PATIENCE
    )
    assert ran.stdout.splitlines() == ["loky True", "multiprocessing True", "threading True"], ran.stderr
