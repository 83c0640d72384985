"""The articles' worked examples with every digit: their networks, and comparison to the last digits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import gpubp

Example = dict[str, Any]

DATA = json.loads((Path(__file__).parent / "data" / "worked_examples.json").read_text(encoding="utf-8"))
EXAMPLES: dict[str, Example] = {example["name"]: example for example in DATA["examples"]}
LOSSES = {
    "squared_error": gpubp.SquaredError,
    "binary_cross_entropy": gpubp.BinaryCrossEntropy,
    "cross_entropy": gpubp.CrossEntropy,
}


def name(value: object) -> str | None:
    return value["name"] if isinstance(value, dict) else None


def build(example: Example, reduction: str = "sum") -> gpubp.MLP:
    loss = None
    if "loss" in example:
        options = {key: value for key, value in example["loss"].items() if key not in ("name", "reduction")}
        loss = LOSSES[example["loss"]["name"]](reduction=reduction, **options)
    masks = example["masks"]
    net = gpubp.MLP(
        example["sizes"],
        activation=example["activation"],
        output=example["output"],
        loss=loss,
        use_bias=example["use_bias"],
        masks=masks and [None if mask is None else np.array(mask) for mask in masks],
        dtype="float64",
        device="cpu",
        seed=0,
    )
    net.set_parameters(*parameters(example))
    return net


def parameters(values: Example) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64] | None]]:
    weights = [np.array(weight) for weight in values["weights"]]
    return weights, [None if bias is None else np.array(bias) for bias in values["biases"]]


def inputs(example: Example) -> NDArray[np.float64]:
    x = np.array(example["x"])
    # An input unit that has an activation is that activation applied to x: nothing below it is trained.
    return 1 / (1 + np.exp(-x)) if example.get("input_activation") == "sigmoid" else x


def targets(example: Example) -> NDArray[np.float64]:
    return np.array(example["y"])


def close(actual: ArrayLike, expected: ArrayLike, rtol: float = 1e-12, what: str = "") -> None:
    # strict also compares shape and dtype, so that (1,) never passes for (1, 1). The floor is for entries that are 0.
    actual, expected = np.asarray(actual), np.array(expected, dtype=np.float64)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-16, strict=True, err_msg=what)


def all_close(actual: list[Any], expected: list[Any], rtol: float = 1e-12, what: str = "") -> None:
    assert len(actual) == len(expected), what
    for layer, (one, other) in enumerate(zip(actual, expected, strict=True)):
        if other is None:
            assert one is None, f"{what}[{layer}]"
        else:
            close(one, other, rtol, f"{what}[{layer}]")
