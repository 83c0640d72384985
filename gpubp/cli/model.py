"""A trained model as the commands use it: found, with its preprocessing, and run over the rows of a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, prod
from os.path import isdir, lexists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp.cli import command_line
from gpubp.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from gpubp.data.preprocessing import Preprocessing
    from gpubp.data.source import Source, Table
    from gpubp.data.targets import Targets
    from gpubp.mlp import MLP

CLASSIFIERS = ("classes", "binary")  # the tasks with one class a row
MOST_ROWS = 1 << 14  # that are run, and written, at once
Part = tuple["Table", Any]  # samples, and the numbers of the rows that are meant; None for all of them


@dataclass(frozen=True)
class Model:
    """A network and what it needs to know of the files that it works on."""

    path: Path
    net: "MLP"
    preprocessing: "Preprocessing"
    data: dict[str, Any] | None  # sha256, test, seed and digest of what it was trained on, where that is known

    @property
    def prepared(self) -> bool:
        """Whether rows are scaled; for a network that was not trained by the command line they stay as they are."""
        return self.preprocessing.scales

    @property
    def decisions(self) -> "Targets":
        """What the network's outputs mean."""
        return self.net._network.targets

    def open(self, data: str, target: str | None, needs_target: bool) -> "Source":
        """The samples of DATA: the columns that the model was trained on, by name where they have one."""
        from gpubp.data.files import open_data

        known = self.preprocessing
        source = open_data(data, target or known.target, known.features, needs_target)
        for table in (source.train, source.test):
            if table is not None and prod(table.x.shape[1:]) != self.net.sizes[0]:
                raise DataError(
                    f"the samples of {data!r} have shape {table.x.shape[1:]}, but {str(self.path)!r} takes "
                    f"{known.shape}; give it data as it was trained on"
                )
        trained, given = ("bytes, as images" if peak else "numbers" for peak in (known.peak, source.peak))
        if self.prepared and source.features is None and trained != given:
            raise DataError(f"{data!r} holds {given}, but {str(self.path)!r} was trained on {trained}; convert them")
        return source

    def targets(self, table: "Table") -> Any:
        """What the network is scored against: class indices (N,), or values (N, outputs) as it was trained on them."""
        return self.preprocessing.targets(table.y)

    def run(self, part: Part) -> Iterator[tuple[slice, Any, Any]]:
        """These rows, a bounded number at a time: (which of them, the network's inputs, its outputs)."""
        import numpy as np

        from gpubp.data.rows import CHUNK_BYTES, Rows

        table, index = part
        rows, width = Rows(table.x, None, index), self.net.sizes[0] + self.net.sizes[-1]
        step = min(MOST_ROWS, max(1, CHUNK_BYTES // (8 * width)))
        for start in range(0, len(rows), step):
            where = slice(start, min(start + step, len(rows)))
            raw = rows[where]
            with np.errstate(over="ignore", invalid="ignore"):
                inputs = self.preprocessing.inputs(raw).astype(self.net.dtype, copy=False)
            outputs = self.net.forward(inputs)
            finite = np.isfinite(inputs).all(axis=1) & np.isfinite(outputs).all(axis=1)
            if len(bad := np.flatnonzero(~finite)):
                row = start + bad[0] if index is None else index[where][bad[0]]
                largest = raw[bad[0]][np.abs(inputs[bad[0]]).argmax()]
                raise DataError(
                    f"row {row} (counted from 0) overflows {self.net.dtype}: its value {largest:g} is too far from "
                    "those that the model was trained on; correct or remove it"
                )
            yield where, inputs, outputs


def load_model(path: Path, device: str) -> Model:
    """The model in this file or run folder."""
    from gpubp import load
    from gpubp.cli.pickled import ENDINGS, load_pickled
    from gpubp.cli.run import CHECKPOINT, MODEL

    file = path / MODEL if isdir(path) else path
    if not lexists(file) and lexists(path / CHECKPOINT):
        remedy = command_line("train", "--resume", str(path))
        raise ModelFileError(f"{str(path)!r} was interrupted before it had saved a model; go on with it: {remedy}")
    if not lexists(file):
        raise ModelFileError(f"cannot read {str(file)!r}: there is no such file; give a model or the folder of a run")
    net = load_pickled(file, device) if file.suffix in ENDINGS else load(file, device)
    described = "preprocessing" in net.metadata
    try:
        preprocessing = _preprocessing(net, net.metadata["preprocessing"]) if described else _as_it_is(net)
        data = _data(net.metadata["data"]) if described and "data" in net.metadata else None
    except (ModelFileError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ModelFileError(f"{str(file)!r} says of its data what cannot be: {error}; train it again") from None
    return Model(file, net, preprocessing, data)


def _preprocessing(net: "MLP", config: Any) -> "Preprocessing":
    """What the file says, held against the network, as every use relies on it."""
    from gpubp.data.preprocessing import Preprocessing

    known, (width, *_, outputs) = Preprocessing.from_config(config), net.sizes
    numbers = [known.shift, known.scale, known.target_shift or [], known.target_scale or []]
    kinds, classifier = {type(name) for name in known.classes or []}, net._network.targets.task in CLASSIFIERS
    for holds, what in (
        (classifier == (known.classes is not None), "classes or values"),
        (prod(known.shape) == width, f"samples of shape {known.shape}"),
        (len(known.shift) in (1, width) and len(known.scale) in (1, width), "the statistics of its columns"),
        (all(isfinite(value) for values in numbers for value in values), "statistics that are not finite"),
        (known.features is None or len(known.features) == width, "the names of its columns"),
        (known.classes is None or kinds in ({int}, {str}), "the names of its classes"),
        (known.classes is None or len(known.classes) == max(2, outputs), "the number of its classes"),
        (known.classes is not None or len(known.target_scale or []) == outputs, "the statistics of its targets"),
    ):
        if not holds:
            raise ValueError(f"{what} do not fit a network {width} wide with {outputs} outputs")
    return known


def _as_it_is(net: "MLP") -> "Preprocessing":
    """For a model that says nothing of its data; its classes are numbered."""
    from gpubp.data.preprocessing import Preprocessing

    classifier, outputs = net._network.targets.task in CLASSIFIERS, net.sizes[-1]
    return Preprocessing.as_it_is(net.sizes[0], outputs, list(range(max(2, outputs))) if classifier else None)


def _data(data: dict[str, Any]) -> dict[str, Any]:
    types = {"name": str, "sha256": str, "test": float | None, "seed": int, "digest": str | None}
    for key, kind in types.items():
        if not isinstance(data[key], kind):
            raise TypeError(f"{key} is {data[key]!r}")
    return data
