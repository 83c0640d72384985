"""What tests/test_mpi.py runs in several processes: `mpiexec -n 3 python mpi_script.py WHAT [FOLDER]`."""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpubp
from gpubp.distributed import using, world
from gpubp.launcher import launch

RANK, SIZE = launch().rank, launch().size
RNG = np.random.default_rng(0)
X, Y, W = RNG.normal(size=(203, 6)), RNG.integers(0, 3, 203), RNG.uniform(0, 2, 203)
GIVEN: dict[str, Any] = {"epochs": 3, "batch_size": 50, "verbose": 0}


def network(**options: Any) -> gpubp.MLP:
    return gpubp.MLP([6, 16, 3], **{"activation": "relu", "dropout": 0.2, "seed": 1, "device": "cpu", **options})


def say(*what: Any) -> None:
    sys.stdout.write(" ".join(map(str, (RANK, *what))) + "\n")
    sys.stdout.flush()


def save(net: gpubp.MLP, folder: str) -> None:
    views = [view for view in [*net.weights, *net.biases] if view is not None]
    flat = np.concatenate([net._network.backend.to_numpy(view).reshape(-1) for view in views])
    np.save(Path(folder) / f"{SIZE}-{RANK}.npy", flat)


def agree(folder: str) -> None:
    """Ragged shards, weights, validation, dropout, clipping."""
    net = network(dtype="float64")
    history = net.fit(X, Y, sample_weight=W, validation=0.1, metrics=("accuracy",), clip_norm=1.0, **GIVEN)
    save(net, folder)
    say(*(f"{value:.12f}" for value in [*history["loss"], *history["validation_loss"], *history["accuracy"]]))


def fails_in_fit(folder: str) -> None:
    def fail(net: gpubp.MLP, record: dict[str, Any]) -> None:
        if RANK == 1:
            raise ValueError("only in rank 1")

    network().fit(X, Y, callbacks=[fail], **GIVEN)


def fails_before_fit(folder: str) -> None:
    if RANK == 1:
        raise ValueError("only in rank 1")
    network().fit(X, Y, **GIVEN)


def fails_after_fit(folder: str) -> None:
    network().fit(X, Y, **GIVEN)
    if RANK == 1:
        raise ValueError("only in rank 1")
    network().fit(X, Y, **GIVEN)


def exits_before_fit(folder: str) -> None:
    """What no exception hook sees; and rank 1 has made itself known."""
    if world().rank == 1:
        sys.exit("no data here")
    network().fit(X, Y, **GIVEN)


def only_rank_0_fits(folder: str) -> None:
    network().fit(X, Y, **GIVEN)
    if RANK == 0:
        network().fit(X, Y, **GIVEN)


def ends_at_other_times(folder: str) -> None:
    """Which is no failure."""
    network().fit(X, Y, **GIVEN)
    time.sleep(1.5 * (RANK == 0))
    say("done")


def all_fail(folder: str) -> None:
    network().fit(X, Y + 7, **GIVEN)


def all_fail_before(folder: str) -> None:
    raise ValueError("in all ranks")


def go_on_after_an_error_of_all(folder: str) -> None:
    net = network()
    try:
        net.fit(X, Y + 7, **GIVEN)
    except gpubp.DataError:
        say(net.fit(X, Y, **GIVEN).stopped)


def other_data(folder: str) -> None:
    network().fit(X + (RANK == 1), Y, **GIVEN)


def few_rows(folder: str) -> None:
    network().fit(X[:2], Y[:2], **GIVEN)


def groups(folder: str) -> None:
    """Two networks at a time, each by half of the processes; then each process its own."""
    from mpi4py import MPI

    half = MPI.COMM_WORLD.Split(RANK % 2, RANK)
    net = network(seed=RANK % 2)
    for _ in range(3):  # which must not use up MPI's communicators
        with using(half):
            net.fit(X, Y, **GIVEN)
    with using(None):
        own = network(seed=7)
        own.fit(X[: 20 + RANK], Y[: 20 + RANK], **GIVEN)
    say(f"{net.weights[0].sum():.6f}", f"{own.weights[0].sum():.6f}")


def late(folder: str) -> None:
    """A rank that comes late is waited for, and the others say so."""
    from gpubp import distributed

    distributed.PATIENCE = 0.5
    net = network()
    net.fit(X, Y, **GIVEN)
    if RANK == 1:
        time.sleep(2)
    net.fit(X, Y, **GIVEN)


def larger_than_memory(folder: str) -> None:
    """The rows of a file as they are needed: what the process holds itself stays small."""
    x = np.load(Path(folder) / "x.npy", mmap_mode="r")
    net = gpubp.MLP([x.shape[1], 8, 3], seed=0, device="cpu")
    net.fit(x, np.arange(len(x)) % 3, epochs=1, batch_size=4096, verbose=0)
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    held = next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
    read = next(int(line.split()[1]) for line in status if line.startswith("RssFile:"))
    say(held // 1024, read // 1024)


def on_gpus(folder: str) -> None:
    """Each process with an emulated GPU of its own, whose NCCL is MPI; captured steps, as they come and as graphs."""
    from emulated_gpus import gpus

    with gpus() as sums:
        net = network(device="cuda")
        net.fit(X, Y, sample_weight=W, clip_norm=1.0, **GIVEN)
        save(net, folder)
        say(net.device, net._network.backend.replays, len(sums))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "")
