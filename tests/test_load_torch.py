"""Networks from PyTorch: what an nn.Sequential or a state_dict becomes, and what is refused; torch is imitated here.

tests/test_torch.py has the real one.
"""

import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import gpubp

RNG = np.random.default_rng(5)


class Tensor:
    """As much of a torch.Tensor as gpubp may ask for."""

    def __init__(self, values: Any, kind: str) -> None:
        self.values, self.dtype = values, f"torch.{kind}"

    def detach(self) -> "Tensor":
        return Tensor(self.values, self.dtype[6:])

    cpu = detach

    def float(self) -> "Tensor":
        return Tensor(self.values.astype(np.float32), "float32")

    def numpy(self) -> Any:
        assert self.dtype in ("torch.float32", "torch.float64"), "NumPy lacks bfloat16"
        return self.values


class Linear:
    def __init__(self, inputs: int, outputs: int, bias: bool = True, kind: str = "float32") -> None:
        dtype = kind if kind == "float64" else "float32"
        self.weight = Tensor(RNG.normal(size=(outputs, inputs)).astype(dtype), kind)
        self.bias = Tensor(RNG.normal(size=outputs).astype(dtype), kind) if bias else None


class Sequential:
    def __init__(self, *modules: Any) -> None:
        self.modules = modules

    def __iter__(self) -> Any:
        return iter(self.modules)

    def forward(self, x: Any) -> Any:
        raise AssertionError("gpubp has no use for it")


class Backwards(Sequential):
    def forward(self, x: Any) -> Any:
        raise AssertionError


def module(name: str, **attributes: Any) -> Any:
    return type(name, (SimpleNamespace,), {})(**attributes)


RELU, TANH, FLATTEN = module("ReLU"), module("Tanh"), module("Flatten", start_dim=1)
GELU = module("GELU", approximate="tanh")


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import now fails


def test_a_sequential() -> None:
    first, second, third = Linear(3, 5), Linear(5, 4, bias=False), Linear(4, 2)
    model = Sequential(
        FLATTEN,
        module("Dropout", p=0.1),
        first,
        RELU,
        Sequential(module("Dropout", p=0.25), second, Sequential(RELU)),
        third,
        module("Softmax", dim=1),
    )
    net = gpubp.load(model, device="cpu")
    assert repr(net).startswith("MLP(3-5-4-2, relu → relu → softmax, cross_entropy, float32, cpu")
    assert (net.seed, net.metadata, net._network.structure.dropout) == (0, {}, [0.1, 0.25, 0.0])
    np.testing.assert_array_equal(net.weights[0], first.weight.values.T, strict=True)
    np.testing.assert_array_equal(net.biases[2], third.bias.values, strict=True)
    assert net.biases[1] is None
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    hidden = np.maximum(x @ first.weight.values.T + first.bias.values, 0)
    logits = np.maximum(hidden @ second.weight.values.T, 0) @ third.weight.values.T + third.bias.values
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-5)
    net.fit(x, [0, 1, 0, 1, 0, 1], epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (module("Identity"), "Identity()"),
        (module("Sigmoid"), "Sigmoid()"),
        (TANH, "Tanh()"),
        (RELU, "ReLU()"),
        (module("LeakyReLU", negative_slope=0.2), "LeakyReLU(slope=0.2)"),
        (module("ELU", alpha=0.5), "ELU(alpha=0.5)"),
        (module("SELU"), "SELU()"),
        (module("Softplus", beta=1.0, threshold=20.0), "Softplus()"),
        (module("SiLU"), "SiLU()"),
        (GELU, "GELU()"),
        (module("Softmax", dim=-1), "Softmax()"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_activations(given: Any, expected: str) -> None:
    net = gpubp.load(Sequential(Linear(2, 3), given, Linear(3, 2), given), device="cpu")
    assert [repr(activation) for activation in net.activations] == [expected, expected]


def test_logits_and_what_is_to_follow() -> None:
    model = Sequential(Linear(3, 4), TANH, Linear(4, 2))
    assert gpubp.load(model).loss.name == "squared_error"
    assert [a.name for a in gpubp.load(model).activations] == ["tanh", "identity"]
    assert gpubp.load(model, output="softmax").loss.name == "cross_entropy"
    replaced = gpubp.load(model, "cpu", activation=gpubp.ELU(0.5), output="sigmoid")
    assert [a.name for a in replaced.activations] == ["elu", "sigmoid"]


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (["float64", "float64"], "float64"),
        (["float32", "float64"], "float64"),
        (["float16", "float16"], "float32"),
        (["bfloat16", "float32"], "float32"),
    ],
)
def test_number_types(kinds: list[str], dtype: str) -> None:
    linears = [Linear(*shape, kind=kind) for shape, kind in zip(pairwise([2, 3, 1]), kinds, strict=True)]
    net = gpubp.load(Sequential(*linears))
    assert net.dtype == dtype
    np.testing.assert_array_equal(net.weights[1], linears[1].weight.values.T.astype(dtype), strict=True)


def test_what_is_loaded_is_a_copy() -> None:
    model = Sequential(Linear(3, 2))
    net = gpubp.load(model)
    before = net.weights[0].copy()
    (linear,) = model
    linear.weight.values[...] = 7
    np.testing.assert_array_equal(net.weights[0], before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Sequential(), "no Linear"),
        (Sequential(RELU), "ReLU at position 0 .* before any Linear"),
        (Sequential(Linear(2, 3), RELU, TANH), "Tanh at position 2 .* another activation"),
        (Sequential(Linear(2, 3), module("BatchNorm1d")), "BatchNorm1d at position 1 .* no counterpart.*take it out"),
        (Sequential(Linear(2, 3), Sequential(RELU, module("Conv2d"))), r"Conv2d at position 1\.1"),
        (Sequential(Linear(2, 3), module("Flatten", start_dim=0)), "Flatten at position 1"),
        (Sequential(Linear(2, 3), module("GELU", approximate="none")), "position 1.*tanh form.*approximate='tanh'"),
        (Sequential(Linear(2, 3), module("Softplus", beta=2.0, threshold=20.0)), "beta must be 1, got 2.0"),
        (Sequential(Linear(2, 3), module("Softmax", dim=None)), "dim must be 1.*None"),
        (Sequential(Linear(2, 3), module("LeakyReLU", negative_slope=0.0)), "position 1.*slope .*greater than 0"),
        (Sequential(Linear(2, 3), module("Dropout", p=0.5)), "ends in a Dropout"),
        (Sequential(Linear(2, 3), module("Dropout", p=0.5), RELU), "position 2 .*follows a Dropout"),
        (Sequential(*[module("Dropout", p=0.5)] * 2, Linear(2, 3)), "position 1 .*another Dropout"),
        (Sequential(module("Dropout", p=1.0), Linear(2, 3)), r"dropout .*\[0, 1\)"),
        (Sequential(Linear(2, 3), Linear(4, 3)), "Linear 1 takes 4 inputs.* 3 outputs"),
        (Sequential(Linear(2, 3, kind="complex64")), "weight of Linear 0 is complex64"),
        (Backwards(Linear(2, 3)), "path must be .*nn.Sequential, got Backwards"),
        (Linear(2, 3), "nn.Sequential, got Linear"),
        (None, "nn.Sequential, got NoneType"),
        (b"model", "nn.Sequential, got bytes"),
    ],
)
def test_models_that_are_refused(model: Any, message: str) -> None:
    with pytest.raises(gpubp.DataError, match=message):
        gpubp.load(model)


def test_a_sequential_that_is_not_finite() -> None:
    linear = Linear(2, 2)
    linear.weight.values[1, 0] = np.inf
    with pytest.raises(gpubp.DataError, match=r"weights\[0\].*not finite"):
        gpubp.load(Sequential(linear))


# -- state_dicts -------------------------------------------------------------------------------------------------------


def state_dict(path: Path, *names: str, sizes: tuple[int, ...] = (3, 5, 2), dtype: str = "float32") -> dict[str, Any]:
    """Write the tensors of a network under these names, weights and biases in turn."""
    arrays = [RNG.normal(size=shape).astype(dtype) for i, o in pairwise(sizes) for shape in ((o, i), (o,))]
    tensors = dict(zip(names, arrays, strict=True))
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("prefix", ["", "net.", "model.layers."])
@pytest.mark.parametrize("places", [("0", "2"), ("2", "10"), ("0.1", "1.0")])
def test_a_state_dict(prefix: str, places: tuple[str, str], tmp_path: Path) -> None:
    path, names = tmp_path / "state.safetensors", [f"{prefix}{p}.{kind}" for p in places for kind in ("weight", "bias")]
    tensors = state_dict(path, *names)
    net = gpubp.load(path, "cpu", activation="relu", output="softmax")
    assert (net.sizes, net.dtype, net.loss.name) == ([3, 5, 2], "float32", "cross_entropy")
    for layer in range(2):
        np.testing.assert_array_equal(net.weights[layer], tensors[names[2 * layer]].T, strict=True)
        np.testing.assert_array_equal(net.biases[layer], tensors[names[2 * layer + 1]], strict=True)
    net.save(path)  # now it is one of gpubp's own
    np.testing.assert_array_equal(gpubp.load(path).weights[0], net.weights[0])


def test_types_and_missing_biases_of_a_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for stored, loaded in (("float16", "float32"), ("float64", "float64")):
        tensors = state_dict(path, "0.weight", "0.bias", sizes=(3, 2), dtype=stored)
        net = gpubp.load(path, output="identity")
        np.testing.assert_array_equal(net.weights[0], tensors["0.weight"].T.astype(loaded), strict=True)
    save_file({"0.weight": np.ones((4, 3), "float32"), "2.weight": np.ones((1, 4), "float32")}, path)
    assert gpubp.load(str(path), activation=["elu"], output="sigmoid").biases == (None, None)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.weight": (5, 3), "2.weight": (2, 4)}, "Linear 1 takes 4 inputs.* 5 outputs"),
        ({"0.weight": (5, 3), "0.bias": (4,)}, r"5 outputs.*bias of shape \(4,\)"),
        ({"0.weight": (5, 3), "1.bias": (4,)}, "layer 1 has a bias and no weight"),
        ({"0.weight": (5, 3), "1.weight": (5,), "1.bias": (5,), "1.running_mean": (5,)}, r"it has '1\.running_mean'"),
        ({"0.weight": (5, 3), "1.weight": (5,), "1.bias": (5,)}, r"'1\.weight' has shape \(5,\)"),
        ({"0.weight": (5, 3, 2, 2)}, r"'0\.weight' has shape"),
        ({"a.0.weight": (5, 3), "b.0.weight": (5, 5)}, "2 modules"),
        ({"fc1.weight": (5, 3), "fc2.weight": (5, 5)}, r"it has 'fc1\.weight'"),
        ({"0.net.weight": (5, 3)}, r"it has '0\.net\.weight'"),
        ({"weight": (5, 3)}, "it has 'weight'"),
        ({"0.weight": (0, 3)}, "3 inputs and 0 outputs"),
        ({}, "0 modules"),
    ],
    ids=str,
)
def test_files_that_are_no_state_dict(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_file({name: np.zeros(shape, "float32") for name, shape in tensors.items()}, tmp_path / "state.safetensors")
    with pytest.raises(gpubp.ModelFileError, match=rf"state\.safetensors.*{message}"):
        gpubp.load(tmp_path / "state.safetensors", activation="relu", output="softmax")


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_number_types_of_a_file_that_are_refused(dtype: str, tmp_path: Path) -> None:
    save_file({"0.weight": np.zeros((2, 2), dtype)}, tmp_path / "state.safetensors")
    with pytest.raises(gpubp.ModelFileError, match=rf"'0\.weight' holds {dtype}, and not float32"):
        gpubp.load(tmp_path / "state.safetensors", output="softmax")


def test_keywords(tmp_path: Path) -> None:
    path, names = tmp_path / "state.safetensors", ("0.weight", "0.bias", "2.weight", "2.bias")
    state_dict(path, *names)
    with pytest.raises(gpubp.ModelFileError, match=r"2 layers.*load\(path, activation='relu', output='softmax'\)"):
        gpubp.load(path)
    with pytest.raises(gpubp.ModelFileError, match=r"load\(path, output='softmax'\)"):
        gpubp.load(path, activation="relu")
    with pytest.raises(gpubp.ModelFileError, match=r"load\(path, activation='relu'\)"):
        gpubp.load(path, output="softmax")
    with pytest.raises(gpubp.DataError, match="did you mean 'relu'"):
        gpubp.load(path, activation="rleu", output="softmax")
    with pytest.raises(gpubp.DataError, match="activation has 2 entries"):
        gpubp.load(path, activation=["relu", "relu"], output="softmax")
    gpubp.load(path, activation="relu", output="softmax").save(path)
    with pytest.raises(gpubp.DataError, match=r"saved by gpubp.*leave out activation"):
        gpubp.load(path, output="softmax")
