"""The readable reference in examples/ computes what gpubp computes, and runs."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

import gpubp

TESTS = Path(__file__).parent
BACKPROP = TESTS.parent / "examples" / "backprop.py"
NEEDS_MNIST = pytest.mark.skipif("GPUBP_MNIST" not in os.environ, reason="GPUBP_MNIST names no file of MNIST")
SIZES = [[5, 3], [5, 4, 3], [5, 7, 6, 4, 3]]

Array = NDArray[np.float64]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def backprop() -> ModuleType:
    return load(BACKPROP)


def problem(sizes: list[int]) -> tuple[gpubp.MLP, Array, Array, list[Array], list[Array]]:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(10, sizes[0])), np.eye(sizes[-1])[rng.integers(0, sizes[-1], 10)]
    weights = [rng.normal(size=shape) for shape in pairwise(sizes)]
    biases = [rng.normal(size=size) for size in sizes[1:]]
    net = gpubp.MLP(sizes, activation="sigmoid", output="softmax", dtype="float64", device="cpu", seed=0)
    net.set_parameters(weights, biases)
    return net, x, y, weights, biases


def all_close(actual: list[Array], expected: list[Array]) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14, strict=True)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward_and_gradients(backprop: ModuleType, sizes: list[int]) -> None:
    net, x, y, weights, biases = problem(sizes)
    activations = backprop.forward(x, weights, biases)
    weight_grads, bias_grads = backprop.backward(activations, y, weights)
    result = net.backprop(x, y)
    all_close(activations, result.activations)
    all_close(weight_grads, result.weight_grads)
    all_close(bias_grads, result.bias_grads)
    assert backprop.cross_entropy(activations[-1], y) == pytest.approx(result.loss, rel=1e-12)


def test_worked_example(backprop: ModuleType) -> None:
    examples = json.loads((TESTS / "data" / "worked_examples.json").read_text(encoding="utf-8"))["examples"]
    example = next(example for example in examples if example["name"] == "four-layer-softmax-sigmoid")
    x, y, weights = np.array(example["x"]), np.array(example["y"]), [np.array(w) for w in example["weights"]]
    activations = backprop.forward(x, weights, [np.array(b) for b in example["biases"]])
    weight_grads, bias_grads = backprop.backward(activations, y, weights)
    all_close(activations, [np.array(a) for a in example["activations"]])
    # The example averages over the batch where the article sums.
    all_close(weight_grads, [np.array(gradient) / len(x) for gradient in example["weight_grads"]])
    all_close(bias_grads, [np.array(gradient) / len(x) for gradient in example["bias_grads"]])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_twenty_steps_of_training(backprop: ModuleType, sizes: list[int]) -> None:
    net, x, y, weights, biases = problem(sizes)
    losses = backprop.train(x, y, weights, biases, learning_rate=0.5, epochs=5, batch_size=3, seed=4)
    rng, expected, steps = np.random.default_rng(4), [], 0
    for _ in range(5):
        order = rng.permutation(10)
        # Ten samples in threes: the last batch is a single one, and is still a mean.
        for batch in (order[0:3], order[3:6], order[6:9], order[9:10]):
            net.train_step(x[batch], y[batch], gpubp.SGD(0.5))
            steps += 1
        expected.append(net.backprop(x, y).loss)
    assert steps == 20
    all_close(weights, net.get_parameters()[0])
    all_close(biases, net.get_parameters()[1])
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert losses[-1] < losses[0]


def test_softmax_does_not_overflow(backprop: ModuleType) -> None:
    probabilities = backprop.softmax(np.array([[1000.0, 1000.0, -1000.0]]))
    np.testing.assert_array_equal(probabilities, [[0.5, 0.5, 0.0]])


def test_it_runs_alone() -> None:
    # -I hides the checkout, and so proves that the page needs NumPy only.
    run = subprocess.run([sys.executable, "-I", str(BACKPROP)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    losses = [float(loss) for loss in re.findall(r"^epoch +\d+ +loss ([\d.]+)$", run.stdout, re.MULTILINE)]
    assert len(losses) == 10
    assert losses[-1] < 0.1 * losses[0]
    accuracy = re.search(r"^accuracy ([\d.]+)$", run.stdout, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.98


@pytest.mark.parametrize(
    "data", [None, pytest.param(os.environ.get("GPUBP_MNIST"), id="mnist", marks=[pytest.mark.check, NEEDS_MNIST])]
)
def test_a_misread_digit_is_explained(data: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    load(BACKPROP.parent / "misread.py").main(data)
    printed = capsys.readouterr().out
    accuracy = re.search(r"^([\d.]+)% of \d+ test digits are read rightly", printed)
    assert accuracy is not None
    assert float(accuracy[1]) > 94
    misread = re.search(r"is a (\d), taken for a (\d)", printed)
    assert misread is not None
    assert misread[1] != misread[2]
    assert "is the gradient of the backward pass" in printed
    step = re.search(rf"takes the probability of {misread[1]} from ([\d.]+)% to ([\d.]+)%", printed)
    assert step is not None
    assert float(step[2]) > float(step[1])
