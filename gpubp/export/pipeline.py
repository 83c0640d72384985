"""Pipeline: everything that lies between a raw row and an answer, as plain arrays, for any format to express."""

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gpubp.activations import Activation
from gpubp.data.preprocessing import Preprocessing
from gpubp.data.targets import Task
from gpubp.errors import GpubpError, ModelFileError

if TYPE_CHECKING:
    from gpubp.mlp import MLP

Answers = dict[str, Any]  # "label" and "probabilities" of a classifier, "values" of a regression; the latter are (N, K)


@dataclass(frozen=True)
class Pipeline:
    """inputs = (x − shift) · scale, then yₗ = fₗ(yₗ₋₁ Wₗ + bₗ), and from the last y a label or values."""

    title: str
    shape: tuple[int, ...]  # of a raw sample
    shift: Any  # (1,) or (inputs,), float64
    scale: Any
    weights: list[Any]  # (inputs, outputs)
    biases: list[Any]  # (outputs,); zeros where the layer has none
    activations: list[Activation]
    task: Task
    classes: Any  # (K,) of int64 or text: the label of each class index; None of independent labels and of a regression
    target_shift: Any  # (outputs,) or None: values = y · target_scale + target_shift
    target_scale: Any
    features: list[str] | None
    target: str | None

    @classmethod
    def of(cls, net: "MLP", known: Preprocessing) -> Self:
        """What this network does with rows as `known` describes them."""
        for activation in net.activations:
            if not type(activation).__module__.startswith("gpubp."):
                raise GpubpError(
                    f"activation {activation.name!r} is not one of gpubp's own, so that other programs do not have it; "
                    "train with another to export the model"
                )
        weights, biases = net.get_parameters()
        task = net._network.targets.task
        regression = task == "values"
        return cls(
            title=repr(net),
            shape=known.shape,
            shift=np.array(known.shift, np.float64),
            scale=np.array(known.scale, np.float64),
            weights=weights,
            biases=[
                np.zeros(len(weight.T), weight.dtype) if bias is None else bias
                for weight, bias in zip(weights, biases, strict=True)
            ],
            activations=net.activations,
            task=task,
            classes=_names(known.classes or []) if task in ("classes", "binary") else None,
            target_shift=np.array(known.target_shift, np.float64) if regression else None,
            target_scale=np.array(known.target_scale, np.float64) if regression else None,
            features=known.features,
            target=known.target,
        )

    def answers(self, net: "MLP", known: Preprocessing, x: Any) -> Answers:
        """What gpubp itself says to raw rows."""
        inputs = known.inputs(x.reshape(len(x), prod(self.shape)))
        outputs = net.forward(inputs.astype(net.dtype))
        if self.task == "values":
            return {"values": known.values(outputs.astype(np.float64))}
        probabilities = net._network.targets.probabilities(outputs)
        return {"label": self.labels(probabilities), "probabilities": probabilities}

    def labels(self, probabilities: Any) -> Any:
        """The decisions that these probabilities stand for."""
        if self.task == "labels":
            return (probabilities >= 0.5).astype(np.int64)
        chosen = probabilities[:, 1] >= 0.5 if self.task == "binary" else probabilities.argmax(axis=1)
        return self.classes[chosen.astype(np.int64)]


def _names(classes: list[Any]) -> Any:
    names = np.array(classes)
    if names.dtype.kind not in "iU":  # whole numbers beyond 64 bits
        raise ModelFileError(f"the model's classes are {classes!r:.200}, neither 64-bit numbers nor text")
    return names


def random_rows(known: Preprocessing, count: int, seed: int) -> Any:
    """Raw rows such as the model was trained on; all of them are numbers that float32 has too."""
    generator, shape = np.random.default_rng(seed), (count, prod(known.shape))
    shift, scale = np.array(known.shift), np.array(known.scale)
    if known.peak:
        return generator.integers(0, int(known.peak) + 1, shape, np.uint8).reshape(count, *known.shape)
    with np.errstate(all="ignore"):
        rows = (shift + generator.standard_normal(shape) / np.where(scale == 0, 1, scale)).astype(np.float32)
    return rows.astype(np.float64).reshape(count, *known.shape)


def difference(ours: Answers, theirs: Answers, pipeline: Pipeline) -> float:
    """The largest |theirs − ours| / max(1, |ours|); infinite where a label does not belong to its probabilities."""
    if "label" in ours and not np.array_equal(theirs["label"], pipeline.labels(theirs["probabilities"])):
        return float("inf")
    a, b = (np.asarray(each["values" if "values" in ours else "probabilities"], np.float64) for each in (ours, theirs))
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        error = np.abs(b - a) / np.maximum(1, np.abs(a))
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities too: beyond the range of both
    return float(np.where(same, 0, error).max(initial=0))
