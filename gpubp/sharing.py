"""What the processes of a training must have alike: settings, data, the network that they start from and end with."""

from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from gpubp.data.arrays import DeviceRows, chosen
from gpubp.data.batches import StreamBatches
from gpubp.data.spool import in_pieces
from gpubp.errors import DataError, GpubpError

if TYPE_CHECKING:
    from gpubp.training import Trainer

SAMPLED = 1024  # rows that are compared of those too many to be read


def start_alike(trainer: "Trainer") -> None:
    """Wait for all processes, refuse settings that differ, and start from the network and optimizer of rank 0."""
    network, optimizer, processes = trainer.network, trainer.optimizer, trainer.processes
    processes.meet()
    processes.agree(
        sizes=network.structure.sizes,
        activations=[activation.name for activation in network.structure.activations],
        loss=network.loss.name,
        dtype=network.dtype,
        device=network.backend.name.partition(":")[0],
        precision=network.backend.precision,
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        optimizer=optimizer.name,
        learning_rate=optimizer.learning_rate,
        weight_decay=optimizer.weight_decay,
        clip_norm=trainer.clip_norm,
        shuffle=trainer.shuffle,
        metrics=sorted(trainer.metrics),
        checkpoint=trainer.checkpoint is not None,
    )
    optimizer.attach(network.backend, network.arena)
    vectors = [network.arena.parameters, *optimizer.state.values()]
    counters = network.seed, network.steps, network.epochs, optimizer.steps
    counters, first = processes.of_first((counters, [network.backend.to_numpy(vector) for vector in vectors]))
    if processes.rank:
        seed, network.steps, network.epochs, optimizer.steps = counters
        network.reseed(seed)
        for vector, values in zip(vectors, first, strict=True):
            network.backend.copy(network.backend.asarray(values, network.dtype), vector)


def check_data(trainer: "Trainer", train: Any, held_out: Any) -> None:
    """Refuse other data in some process, and fewer rows than there are processes."""
    streamed = isinstance(train, StreamBatches)
    parts = [] if streamed else [*zip(("x", "y", "sample_weight"), train, strict=True)]
    if held_out is not None:
        parts += zip(("validation x", "validation y", "validation weights"), held_out, strict=True)
    trainer.processes.agree(
        data="batches" if streamed else "arrays",
        **{name: "missing" if column is None else f"of shape {column.shape}" for name, column in parts},
    )
    trainer.processes.agree(**{name: _compared(column, trainer) for name, column in parts if column is not None})
    rows, processes = 0 if streamed else len(train[0]), trainer.processes.size
    if not streamed and rows < processes:
        raise DataError(f"x has {rows} rows for {processes} processes; start no more processes than there are rows")
    if isinstance(trainer.batch_size, int) and trainer.batch_size < processes:
        raise DataError(
            f"batch_size={trainer.batch_size} is less than the {processes} processes that share each batch; "
            "give a larger one, or start fewer processes"
        )


def check_parameters(trainer: "Trainer", epoch: int) -> None:
    """Stop where the processes no longer have the same network, bit for bit."""
    network, processes = trainer.network, trainer.processes
    found = processes.of_all(_checksum(network.backend.to_numpy(network.arena.parameters)))
    differing = [rank for rank, checksum in enumerate(found) if checksum != found[0]]
    if differing:
        raise GpubpError(
            f"after epoch {epoch} the parameters of rank {', '.join(map(str, differing))} are no longer those of "
            "rank 0: a callback or a transform did something else there, or these machines do not compute the same "
            "bits; go on from the last checkpoint on machines of one kind"
        )


def _compared(column: Any, trainer: "Trainer") -> str:
    """An array, or, where a process reads it from elsewhere, some of its rows, as `known_by` tells."""
    backend = trainer.network.backend
    if trainer.processes.any(isinstance(column, DeviceRows)):
        rows = np.unique(np.linspace(0, len(column) - 1, SAMPLED).astype(int))
        column = column[rows] if isinstance(column, DeviceRows) else chosen(column, rows, backend)
    return known_by(column, backend)


def known_by(array: Any, backend: Any) -> str:
    """What tells device arrays apart."""
    return f"data with the checksum {_checksum(backend.to_numpy(array)):08x}"


def _checksum(host: Any) -> int:
    code = 0
    for piece in in_pieces(host):
        code = crc32(np.ascontiguousarray(piece).data, code)
    return code
