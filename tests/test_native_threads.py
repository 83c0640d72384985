"""Threads: gpubp's own, OpenBLAS's and the user's give the same bits, and leave OpenBLAS's number as it was."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from native_nets import bits, net_on, sample, threads

import gpubp
from gpubp.backends.blas import Blas, blas
from gpubp.backends.native import NativeBackend

pytestmark = [pytest.mark.check, pytest.mark.toolchain]


@pytest.fixture
def openblas() -> Iterator[Blas]:
    known = blas()
    if known is None:
        pytest.skip("NumPy's BLAS is no OpenBLAS that can be called")
    with threads(3, 3):
        yield known


def trained(seed: int, steps: int = 10, rows: int = 150) -> bytes:
    """The bits of a network of which every operation is worth two threads."""
    x, y = sample(rows, 60, 10, seed)
    net, optimizer = net_on(NativeBackend, 60, 120, 10, seed=seed), gpubp.Adam(0.01)
    for _ in range(steps):
        net.train_step(x, y, optimizer)
    return bits(net)


def test_fewer_threads_than_there_were_give_the_same_bits() -> None:
    """As when threadpoolctl limits them: what is cut is cut as before."""
    found = set()
    for allowed in (1, 2, 5):
        with threads(allowed, 2):
            assert NativeBackend().describe()["kernels"].endswith(" 2 threads")
            found.add(trained(0))
    assert len(found) == 1


def test_products_cut_otherwise_may_be_rounded_otherwise() -> None:
    """As for other numbers of cores; kernels give the same bits, tests/test_native_parity.py shows."""
    found = []
    for cores in (1, 3):
        with threads(cores, cores):
            found.append(np.frombuffer(trained(0), np.float32))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def test_networks_in_threads_of_the_user(openblas: Blas) -> None:
    """One of them has gpubp's threads, the others are alone meanwhile: all get the bits that they get one by one."""
    alone = [trained(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(trained, range(4))) == alone
    assert openblas.threads() == 3


def test_a_network_that_threads_share_takes_whole_steps(openblas: Blas) -> None:
    """In whatever order: each thread's step is on the same batch."""
    x, y = sample(150, 60, 10)
    net, optimizer = net_on(NativeBackend, 60, 120, 10), gpubp.Adam(0.01)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: net.train_step(x, y, optimizer), range(10)))
    assert bits(net) == trained(0)


# -- OpenBLAS's number of threads --------------------------------------------------------------------------------------


def test_it_is_what_it_was_after_a_step(openblas: Blas) -> None:
    trained(0, steps=2)
    assert openblas.threads() == 3


def test_it_is_what_it_was_after_an_exception(openblas: Blas) -> None:
    net, (x, y) = net_on(NativeBackend, 4, 4, 2, activation="relu"), sample(20, 4, 2)
    with pytest.raises(gpubp.DataError):
        net.train_step(x, y + 1, gpubp.SGD())
    with pytest.raises(gpubp.DivergenceError):
        net.fit(x * 1e20, y, optimizer=gpubp.SGD(1e30), verbose=0)
    assert openblas.threads() == 3


def test_it_is_one_during_a_step_and_what_someone_sets_then_stays(openblas: Blas) -> None:
    """A step begun by two threads at once is over when both are done."""
    allow = ctypes.CFUNCTYPE(None, ctypes.c_int)(openblas.set_threads)
    a = np.ones((1500, 1500), np.float32)

    def multiply(times: int) -> None:
        backend, out = NativeBackend(), np.empty_like(a)
        for _ in range(times):
            backend.matmul(a, a, out)

    for during, after in [(None, 3), (2, 2)]:
        allow(3)
        users = [threading.Thread(target=multiply, args=(times,)) for times in (1, 1)]
        for user in users:
            user.start()
        until(lambda: openblas.threads() == 1)
        if during:
            allow(during)
        for user in users:
            user.join()
        assert openblas.threads() == after


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(1e-4)


def test_it_is_left_alone_where_it_is_one() -> None:
    with threads(1, 3):
        trained(0, steps=2)
        known = blas()
        assert known is None or known.threads() == 1


# -- an end ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupting() -> Iterator[None]:
    """SIGINT as Python takes it, which in the background of a shell is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_ends_a_training_with_a_whole_step(openblas: Blas, interrupting: None) -> None:
    x, y = sample(150, 60, 10)
    net, timer = net_on(NativeBackend, 60, 120, 10), threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    history = net.fit(x, y, epochs=10**6, verbose=0)
    timer.join()
    assert history.stopped == "interrupted"
    assert openblas.threads() == 3


ENDS: dict[str, str] = {
    "while threads wait": "train(2)",
    "while threads sleep": "train(2); time.sleep(0.01)",
    "in the middle of a step": "threading.Thread(target=train, args=(10**9,), daemon=True).start(); time.sleep(0.01)",
    "in the middle of two": (
        "[threading.Thread(target=train, args=(10**9,), daemon=True).start() for _ in '12']; time.sleep(0.01)"
    ),
}


@pytest.mark.check
@pytest.mark.parametrize("when", ENDS)
def test_a_process_ends(when: str) -> None:
    """Again and again, at once, with 0, and without a word."""
    code = f"""
import gpubp, numpy, threading, time
x, y = numpy.ones((150, 60), numpy.float32), numpy.arange(150) % 10
def train(steps):
    net, optimizer = gpubp.MLP([60, 120, 10], device="cpu", seed=0), gpubp.Adam()
    for _ in range(steps):
        net.train_step(x, y, optimizer)
train(1)
{ENDS[when]}
"""
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GPUBP_NATIVE": "1"}
    environment["OPENBLAS_NUM_THREADS"] = "2"
    for _ in range(15):
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
