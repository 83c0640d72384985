"""Checkpoints: where a training stands after a whole epoch, so that it can go on from there, bit for bit."""

import json
from glob import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp.alone import Alone
from gpubp.callbacks import Callback
from gpubp.errors import ModelFileError
from gpubp.history import History
from gpubp.tensorfile import CHECKSUM, checksum, read_tensors
from gpubp.whole import write_whole

if TYPE_CHECKING:
    from gpubp.training import Trainer

FORMAT = 1


class Checkpoint(Callback):
    """Write where the training stands to a file after every epoch, and go on from there after an interruption.

    The file holds parameters, optimizer state, the best parameters so far and all counters; the resumed training gives
    the same bits as one that was never interrupted, if network, data and settings are the same. Of an interrupted
    epoch nothing is kept: it is begun anew.

    Arguments:
        path: the file, in safetensors format; replaced as a whole, so that a crash leaves the one before.
        resume: go on from the file, if there is one.
        run: anything that JSON can hold, kept in the file for its owner.

    Raises ModelFileError for a file that is no checkpoint or belongs to another network or optimizer.

    >>> import gpubp, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for epochs in (2, 3):
    ...         net = gpubp.MLP([1, 1], output="identity", seed=0)
    ...         checkpoint = gpubp.Checkpoint(f"{folder}/run.safetensors", resume=True)
    ...         history = net.fit([[1.0]], [2.0], epochs=epochs, callbacks=[checkpoint], verbose=0)
    >>> history["epoch"]  # the second training resumed the first
    [1, 2, 3]
    """

    def __init__(self, path: str | PathLike[str], resume: bool = False, run: dict[str, Any] | None = None) -> None:
        self.path, self.run = Path(path), run or {}
        self._state: dict[str, Any] | None = None  # what to resume
        self._vectors: dict[str, Any] = {}
        self._writes = True
        self.history = History()  # of the training that the file knows of
        self._lines: list[str] = []  # that history as JSON, kept as to write it anew would take longer every epoch
        if resume and self.path.exists():
            self._read()

    def _read(self) -> None:
        metadata, vectors = read_tensors(self.path)
        try:
            described, lines = metadata["gpubp checkpoint"], metadata["history"]
            content = json.loads(described)
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']!r}, and this gpubp resumes format {FORMAT}")
            if metadata[CHECKSUM] != checksum(described + lines, vectors):
                raise ValueError("its content does not match its checksum; it is damaged")
            self._state, self.run, self._vectors = content["state"], content["run"], vectors
            self.history = History([json.loads(line) for line in lines.splitlines()])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            reason = "it is no checkpoint that gpubp wrote" if isinstance(error, LookupError) else error
            raise ModelFileError(f"cannot resume from {str(self.path)!r}: {reason}") from None

    def share(self, processes: Alone) -> None:
        """Resume in all processes from what rank 0 has read, which alone writes."""
        held = self._state, self.run, self._vectors, self.history
        self._state, self.run, self._vectors, self.history = processes.of_first(held)
        self._writes = processes.rank == 0

    def write(self, trainer: "Trainer") -> None:
        """Replace the file by the present state, whole or not at all."""
        if not self._writes:
            return
        from safetensors.numpy import save

        network, optimizer, history = trainer.network, trainer.optimizer, trainer.history
        vectors = {"parameters": network.arena.parameters, **_named("optimizer", optimizer.state)}
        if trainer.best is not None:
            vectors["best"] = trainer.best
        stopping = trainer.early_stopping
        state = {
            "trained": _trained(trainer),
            "steps": [network.steps, network.epochs, optimizer.steps, trainer.step],
            "stopped": history.stopped,
            "best_epoch": history.best_epoch,
            "early_stopping": stopping and [stopping.best, stopping.best_epoch, stopping.waited],
        }
        described = json.dumps({"format": FORMAT, "run": self.run, "state": state})
        self._lines += [json.dumps(record) for record in history.records[len(self._lines) :]]
        lines = "\n".join(self._lines)
        host = {name: network.backend.to_numpy(vector) for name, vector in vectors.items()}
        metadata = {"gpubp checkpoint": described, "history": lines, CHECKSUM: checksum(described + lines, host)}
        write_whole(self.path, save(host, metadata))

    def restore(self, trainer: "Trainer") -> None:
        """Put a trainer whose optimizer has its state ready where the file stands; where there was none, write it."""
        for leftover in self.path.parent.glob(f".{escape(self.path.name)}.*") if self._writes else ():
            leftover.unlink(missing_ok=True)  # of a write that a kill cut short
        self._lines.clear()
        if self._state is None:
            self.write(trainer)
            return
        network, optimizer, stopping = trainer.network, trainer.optimizer, trainer.early_stopping
        live = {"parameters": network.arena.parameters, **_named("optimizer", optimizer.state)}
        if "best" in self._vectors:
            live["best"] = trainer.best = network.backend.copied(network.arena.parameters)
        shapes = {name: vector.shape for name, vector in live.items()}
        known = {name: vector.shape for name, vector in self._vectors.items()}
        if shapes != known or self._state["trained"] != _trained(trainer):
            raise ModelFileError(f"{str(self.path)!r} is of another network or optimizer than this one")
        for name, vector in live.items():
            network.backend.copy(network.backend.asarray(self._vectors[name], network.dtype), vector)
        network.steps, network.epochs, optimizer.steps, trainer.step = self._state["steps"]
        trainer.history = History(list(self.history.records))
        trainer.history.stopped, trainer.history.best_epoch = self._state["stopped"], self._state["best_epoch"]
        if stopping:
            stopping.best, stopping.best_epoch, stopping.waited = self._state["early_stopping"]
        self._state, self._vectors = None, {}  # done with: the next training that is given this object starts anew


def _trained(trainer: "Trainer") -> dict[str, Any]:
    """What a checkpoint must agree with; as it comes back from JSON."""
    described = {"optimizer": trainer.optimizer.name, "structure": trainer.network.structure.config()}
    trained: dict[str, Any] = json.loads(json.dumps(described))
    return trained


def _named(prefix: str, vectors: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": vector for name, vector in vectors.items()}
