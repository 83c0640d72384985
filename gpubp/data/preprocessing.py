"""Preprocessing: from the rows of a user's file to a network's inputs and targets, and from its outputs back.

It is fitted on the training rows alone and travels in the model, so that `predict` takes what the file holds.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np

from gpubp.data.rows import Rows
from gpubp.errors import DataError, ModelFileError

Task = Literal["classification", "regression"]
MOST_NUMBERED_CLASSES = 20  # more distinct whole numbers than this are classes only if they are 0, 1, ..., K − 1

LISTS: dict[str, set[type]] = {  # what may stand in each
    "shape": {int},
    "shift": {int, float},
    "scale": {int, float},
    "features": {str},
    "classes": {int, str},
    "target_shift": {int, float},
    "target_scale": {int, float},
}


@dataclass(frozen=True)
class Preprocessing:
    """inputs = (x − shift) · scale; targets are class indices, or (y − target_shift) / target_scale.

    `shift` and `scale` have one entry a column, or one for all.
    """

    task: Task
    shape: tuple[int, ...]  # of one sample as it comes: (28, 28), (4,)
    shift: list[float]
    scale: list[float]
    peak: float | None = None  # of images as bytes: the value that becomes 1
    features: list[str] | None = None  # the columns' names, where they have some
    target: str | None = None  # the target column's name
    classes: list[int] | list[str] | None = None  # the name of each class index
    target_shift: list[float] | None = None  # of a regression, one entry an output
    target_scale: list[float] | None = None

    @property
    def outputs(self) -> int:
        return len(self.classes or self.target_shift or [])

    @property
    def scales(self) -> bool:
        """Whether inputs differ from the rows that they come from."""
        return self.shift != [0.0] or self.scale != [1.0]

    def inputs(self, x: Any) -> Any:
        """A network's inputs (n, width) for rows as they lie in a file, in float64, or float32 for bytes."""
        kind = np.float32 if x.dtype == np.uint8 else np.float64
        values = np.subtract(x, np.array(self.shift, kind), dtype=kind)
        return np.multiply(values, np.array(self.scale, kind), out=values)

    def targets(self, y: Any) -> Any:
        """What a network is to learn: int64 class indices (N,), or standardised values (N, outputs)."""
        name = self.target or "y"
        if self.classes is None:
            if y.dtype.kind == "U":
                raise DataError(f"{name} holds text such as {y[0].item()!r}, but the model predicts numbers")
            values = np.asarray(y, np.float64).reshape(len(y), -1)
            if values.shape[1] != self.outputs:
                raise DataError(f"the targets have {values.shape[1]} columns, but the model predicts {self.outputs}")
            return (values - np.array(self.target_shift)) / np.array(self.target_scale)
        if y.ndim != 1:
            raise DataError(f"{name} has shape {y.shape}, but one class for each row is needed")
        names = np.array(self.classes)
        if names.dtype.kind == "U" and y.dtype.kind != "U":  # of the classes 1, 2 and x a file may hold the first two
            y = np.strings.mod("%g", y)
        if names.dtype.kind != "U" and y.dtype.kind == "U":
            raise DataError(
                f"{self.target or 'y'} holds text, such as {y[0].item()!r}, but the model was trained on the classes "
                f"{', '.join(map(str, self.classes[:20]))}"
            )
        indices = np.searchsorted(names, y).clip(max=len(names) - 1)
        if len(unknown := np.flatnonzero(names[indices] != y)):
            first = unknown[0]
            raise DataError(
                f"{self.target or 'y'}: row {first} has the class {y[first].item()!r}, which is none of those that "
                f"were trained on: {', '.join(map(str, self.classes[:20]))}"
            )
        return indices.astype(np.int64)

    def values(self, outputs: Any) -> Any:
        """A regression's outputs (N, outputs) in the units of the file."""
        return outputs * np.array(self.target_scale) + np.array(self.target_shift)

    def rows(self, x: Any, index: Any = None) -> Rows:
        """The inputs for these rows of x, still unread."""
        return Rows(x, self.inputs, index)

    def config(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        try:
            known = cls(**{**config, "shape": tuple(config["shape"])})
            known._check()
        except (TypeError, ValueError, KeyError) as error:
            raise ModelFileError(f"the model's preprocessing cannot be read: {error}") from None
        return known

    def _check(self) -> None:
        """Refuse what `config` never gives, as files can be edited."""
        for name, kinds in LISTS.items():
            values = list(self.shape) if name == "shape" else getattr(self, name)
            if values is None and name not in ("shape", "shift", "scale"):
                continue
            if not isinstance(values, list) or not {type(value) for value in values} <= kinds:
                raise TypeError(f"{name} is {values!r:.80}")
            if any(isinstance(value, int) and abs(value) >= 2**63 for value in values):
                raise ValueError(f"{name} is {values!r:.80}")
        texts = [self.target or "", *(self.features or []), *map(str, self.classes or [])]
        "".join(texts).encode()  # half a surrogate pair is no text
        if min(self.shape, default=0) < 1 or not isinstance(self.peak, float | None):
            raise ValueError(f"shape is {self.shape} and peak {self.peak!r:.80}")

    @classmethod
    def as_it_is(
        cls, inputs: int, outputs: int, classes: list[int] | list[str] | None = None, features: list[str] | None = None
    ) -> Self:
        """What leaves rows and outputs as they are, for a network that comes without preprocessing."""
        same: dict[str, Any] = {"shape": (inputs,), "shift": [0.0], "scale": [1.0], "features": features}
        if classes is not None:
            return cls("classification", classes=classes, **same)
        return cls("regression", target_shift=[0.0] * outputs, target_scale=[1.0] * outputs, **same)

    @classmethod
    def fit(
        cls,
        x: Any,
        y: Any,
        index: Any,
        task: Task,
        *,
        peak: float | None = None,
        features: list[str] | None = None,
        target: str | None = None,
    ) -> Self:
        """From the training rows `index` of x (N, ...) and y.

        With a `peak` values are divided by it (255 for the bytes of images); else columns are standardised, or for
        images, whose pixels belong together, all of them as one.
        """
        shift, scale = [0.0], [1 / (peak or 1)]
        if peak is None:
            shift, deviation = _statistics("x", Rows(x, None, index), features, as_one=x.ndim > 2)
            scale = [1 / value for value in deviation]
        common: dict[str, Any] = {"shape": x.shape[1:], "shift": shift, "scale": scale, "peak": peak}
        common |= {"features": features, "target": target}
        if task == "regression":
            target_shift, target_scale = _statistics(target or "y", Rows(y, None, index))
            return cls("regression", target_shift=target_shift, target_scale=target_scale, **common)
        if y.dtype.kind != "U" and not (np.abs(y.astype(np.float64)) < 2**53).all():
            raise DataError(
                f"{target or 'y'} holds classes as large as {np.abs(y.astype(np.float64)).max():g}; "
                "number them by less than 2^53, or use --task regression"
            )
        names = np.unique(y if y.dtype.kind == "U" else y.astype(np.int64)).tolist()
        if len(names) < 2:
            raise DataError(f"{target or 'y'} has one class only, {names[0]!r}; there is nothing to tell apart")
        return cls("classification", classes=names, **common)


def task_of(y: Any) -> Task:
    """What targets look like: text and few different whole numbers are classes, everything else is to be predicted."""
    if y.dtype.kind == "U":
        return "classification"
    if (y.ndim == 2 and y.shape[1] > 1) or not (y == np.floor(y)).all():
        return "regression"
    names = np.unique(y)
    numbered = len(y) >= 10 * len(names) and names[0] == 0 and names[-1] == len(names) - 1
    return "classification" if numbered or len(names) <= MOST_NUMBERED_CLASSES else "regression"


def _statistics(
    name: str, rows: Rows, features: list[str] | None = None, as_one: bool = False
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each column, or of all values together; a deviation of rounding errors is 1."""
    count, axis = (len(rows) * rows.shape[1], None) if as_one else (len(rows), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.atleast_1d(sum(np.sum(chunk, axis=axis, dtype=np.float64) for _, chunk in rows.chunks()) / count)
        spread = np.atleast_1d(sum(np.sum((chunk - mean) ** 2, axis=axis) for _, chunk in rows.chunks()))
    if len(bad := np.flatnonzero(~np.isfinite(spread))):
        column = repr(features[bad[0]]) if features else bad[0]
        raise DataError(f"{name}: the values of column {column} are too large to be standardised; rescale them first")
    deviation = np.sqrt(spread / count)
    return mean.tolist(), np.where(deviation > 1e-9 * np.abs(mean), deviation, 1.0).tolist()
