"""Exported models: ONNX in onnxruntime and NPZ in plain NumPy say what gpubp says, and nothing else is written."""

import json
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

import gpubp
from gpubp.activations import Activation
from gpubp.cli import main
from gpubp.cli.model import load_model
from gpubp.export import export
from gpubp.export.pipeline import Pipeline, difference, random_rows

ACTIVATIONS = sorted(name for name, kind in Activation.members.items() if kind.__module__.startswith("gpubp."))
SETTINGS = {"leaky_relu": gpubp.LeakyReLU(0.2), "elu": gpubp.ELU(0.6)}
SHIFT, SCALE = [1.5, -20.0, 2010.3, 0.0, 1.6e9 + 57], [0.5, 3.0, 0.2, 1.0, 1e-4]
FEATURES = ["a", "b", "year", "größe", "time"]
TABLE = {"shape": [5], "shift": SHIFT, "scale": SCALE, "features": FEATURES, "target": "kind"}
IMAGES = {"shape": [2, 3], "shift": [0.0], "scale": [1 / 255], "peak": 255.0}


def gpubp_(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="gpubp")


def network(sizes: list[int], activation: Any, output: str, dtype: str = "float32", seed: int = 0) -> gpubp.MLP:
    """With weights small enough for `exp`, and biases that are not 0."""
    net, rng = gpubp.MLP(sizes, activation, output, dtype=dtype, device="cpu", seed=seed), np.random.default_rng(seed)
    weights = [0.5 * rng.normal(size=shape) / np.sqrt(shape[0]) for shape in pairwise(sizes)]
    net.set_parameters(weights, [0.3 * rng.normal(size=width) for width in sizes[1:]])
    return net


def saved(net: gpubp.MLP, folder: Path, **preprocessing: Any) -> Path:
    if preprocessing:
        task = "classification" if "classes" in preprocessing else "regression"
        net.metadata["preprocessing"] = {"task": task, **preprocessing}
    net.save(folder / "model.safetensors")
    return folder / "model.safetensors"


def raw(model: Path, rows: int) -> Any:
    """Rows for this model that float32 holds."""
    known, rng = load_model(model, "cpu").preprocessing, np.random.default_rng(7)
    if known.shape == (2, 3):
        return rng.integers(0, 256, (rows, 2, 3), np.uint8)
    x = np.array(known.shift) + rng.normal(size=(rows, *known.shape)) / np.array(known.scale)
    return x.astype(np.float32).astype(np.float64)


def expected(model: Path, x: Any) -> dict[str, Any]:
    """What gpubp says, in the words of its public methods."""
    known = load_model(model, "cpu")
    inputs = known.preprocessing.inputs(x.reshape(len(x), -1))
    decided = known.net.predict(inputs)
    if known.decisions.task == "values":
        return {"values": known.preprocessing.values(decided.reshape(len(x), -1))}
    classes = known.preprocessing.classes
    label = decided if classes is None else np.array(classes)[decided]
    return {"label": label, "probabilities": known.net.predict_proba(inputs)}


def run(file: Path, x: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x.astype(np.float32)}), strict=True))


def assert_same(actual: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        assert actual[name].shape == value.shape
        if name == "label":
            assert actual[name].dtype.kind in ("OU" if value.dtype.kind == "U" else "i")
            assert actual[name].tolist() == value.tolist()
        else:
            assert np.abs((actual[name] - value) / np.maximum(1, np.abs(value))).max() < 1e-5


# -- ONNX --------------------------------------------------------------------------------------------------------------

OUTPUTS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "softmax, text": (3, "softmax", {**TABLE, "classes": ["no", "yes", "größer"]}),
    "softmax, numbers": (3, "softmax", {**TABLE, "classes": [-3, 5, 2**40]}),
    "softmax, indices": (3, "softmax", {**TABLE, "classes": [0, 1, 2]}),
    "softmax, alone": (3, "softmax", {}),
    "sigmoid, text": (1, "sigmoid", {**TABLE, "classes": ["no", "yes"]}),
    "sigmoid, alone": (1, "sigmoid", {}),
    "sigmoids, alone": (4, "sigmoid", {}),
    "value": (1, "identity", {**TABLE, "target_shift": [1e4], "target_scale": [250.0]}),
    "values": (2, "identity", {**TABLE, "target_shift": [1.0, -3.0], "target_scale": [0.5, 1e-3]}),
    "values, alone": (2, "identity", {}),
    "images": (3, "softmax", {**IMAGES, "classes": ["x", "y", "z"]}),
    "images, values": (1, "exp", {**IMAGES, "target_shift": [0], "target_scale": [2]}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_task_in_onnxruntime(name: str, dtype: str, tmp_path: Path) -> None:
    outputs, output, preprocessing = OUTPUTS[name]
    inputs = int(np.prod(preprocessing.get("shape", [5])))
    model = saved(network([inputs, 9, 6, outputs], "tanh", output, dtype), tmp_path, **preprocessing)
    file = tmp_path / "model.onnx"
    exported = gpubp_("export", model, "-o", file)
    assert exported.exit_code == 0, exported.output
    for rows in (1, 7, 300):
        x = raw(model, rows)
        assert_same(run(file, x), expected(model, x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_in_onnxruntime(activation: str, tmp_path: Path) -> None:
    chosen = SETTINGS.get(activation, activation)
    model = saved(network([5, 8, 8, 4], chosen, "softmax"), tmp_path, **TABLE, classes=["a", "b", "c", "d"])
    assert gpubp_("export", model, "-o", tmp_path / "hidden.onnx").exit_code == 0
    x = raw(model, 64)
    assert_same(run(tmp_path / "hidden.onnx", x), expected(model, x))
    model = saved(network([5, 8, 3], chosen, activation), tmp_path)
    assert gpubp_("export", model, "-o", tmp_path / "output.onnx").exit_code == 0
    x = 3 * raw(model, 64)
    assert_same(run(tmp_path / "output.onnx", x), expected(model, x))


def test_a_layer_without_bias_and_no_hidden_layer(tmp_path: Path) -> None:
    model = saved(gpubp.MLP([5, 3], use_bias=False, device="cpu", seed=1), tmp_path)
    assert gpubp_("export", model, "-o", tmp_path / "model.onnx").exit_code == 0
    x = raw(model, 7)
    assert_same(run(tmp_path / "model.onnx", x), expected(model, x))


def test_what_the_onnx_file_says_of_itself(tmp_path: Path) -> None:
    model = saved(network([5, 4, 2], "relu", "softmax"), tmp_path, **TABLE, classes=["a", "b"])
    gpubp_("export", model, "-o", tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert (graph.producer_name, graph.producer_version) == ("gpubp", gpubp.__version__)
    assert (graph.opset_import[0].version, graph.ir_version) == (13, 7)
    assert "MLP(5-4-2, relu → softmax" in graph.doc_string
    props = {prop.key: prop.value for prop in graph.metadata_props}
    assert json.loads(props["features"]) == FEATURES
    assert (props["target"], props["task"]) == ("kind", "classes")
    dimensions = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.graph.input]
    assert dimensions == [["N", 5]]
    assert not {node.op_type for node in graph.graph.node} & {"Dropout", "Identity", "Flatten"}


def test_preprocessing_that_does_nothing_is_left_out(tmp_path: Path) -> None:
    gpubp_("export", saved(network([5, 2], [], "softmax"), tmp_path), "-o", tmp_path / "model.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert nodes == ["Gemm", "Softmax", "ArgMax", "Gather"]


@pytest.mark.parametrize("name", ["softmax, text", "sigmoid, text", "sigmoids, alone", "values"])
def test_without_onnxruntime(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, output, preprocessing = OUTPUTS[name]
    model = saved(network([5, 4, outputs], "gelu", output), tmp_path, **preprocessing)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exported = gpubp_("export", model, "-o", tmp_path / "model.onnx", "--json")
    assert json.loads(exported.stdout)["compared_with"] == f"onnx {onnx.__version__}"


def test_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(network([5, 2], [], "softmax"), tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    exported = gpubp_("export", model, "-o", tmp_path / "model.onnx")
    assert exported.exit_code == 1
    assert "pip install 'gpubp[onnx]'" in exported.stderr
    assert gpubp_("export", model, "-o", tmp_path / "model.npz").exit_code == 0


# -- NPZ ---------------------------------------------------------------------------------------------------------------


def by_hand(file: Path, x: Any) -> dict[str, Any]:
    """What the command's help describes, for leaky_relu and elu below an output that is named here."""
    with np.load(file, allow_pickle=False) as opened:
        arrays = dict(opened)
    y = (x.reshape(len(x), -1) - arrays["shift"]) * arrays["scale"]
    for layer, name in enumerate(arrays["activations"]):
        y = y @ arrays[f"weight_{layer}"] + arrays[f"bias_{layer}"]
        if name == "leaky_relu":
            y = np.where(y > 0, y, arrays[f"slope_{layer}"] * y)
        elif name == "elu":
            y = np.where(y > 0, y, arrays[f"alpha_{layer}"] * (np.exp(y) - 1))
        elif name == "softmax":
            y = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
        elif name in ("sigmoid", "exp"):
            y = 1 / (1 + np.exp(-y)) if name == "sigmoid" else np.exp(y)
    if arrays["task"] == "values":
        return {"values": y * arrays["target_scale"] + arrays["target_shift"]}
    if arrays["task"] == "labels":
        return {"label": (y >= 0.5).astype(int), "probabilities": y}
    y = np.hstack([1 - y, y]) if arrays["task"] == "binary" else y
    label = y.argmax(axis=1)
    return {"label": arrays["classes"][label] if "classes" in arrays else label, "probabilities": y}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_arrays_of_an_npz_are_enough(name: str, dtype: str, tmp_path: Path) -> None:
    outputs, output, preprocessing = OUTPUTS[name]
    hidden, inputs = [gpubp.LeakyReLU(0.2), gpubp.ELU(0.6)], int(np.prod(preprocessing.get("shape", [5])))
    model = saved(network([inputs, 9, 6, outputs], hidden, output, dtype), tmp_path, **preprocessing)
    exported = gpubp_("export", model, "-o", tmp_path / "model.npz")
    assert exported.exit_code == 0, exported.output
    x = raw(model, 50)
    assert_same(by_hand(tmp_path / "model.npz", x), expected(model, x))
    with np.load(tmp_path / "model.npz", allow_pickle=False) as opened:
        arrays = dict(opened)
    assert all(array.dtype.kind in "fiU" for array in arrays.values()), "no objects"
    assert arrays["weight_1"].dtype == dtype
    assert arrays["gpubp"] == gpubp.__version__
    if "features" in preprocessing:
        assert (arrays["features"].tolist(), arrays["target"]) == (FEATURES, "kind")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_formulas_of_an_npz(activation: str, dtype: str, tmp_path: Path) -> None:
    chosen = SETTINGS.get(activation, activation)
    for output in ("identity", activation):
        known = load_model(saved(network([5, 8, 8, 3], chosen, output, dtype), tmp_path), "cpu")
        exported = export(known.net, known.preprocessing, ".npz")
        assert 0 <= exported.largest_difference < {"float32": 1e-6, "float64": 1e-14}[dtype]


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["onnx", "npz"])
def test_what_it_prints(ending: str, tmp_path: Path) -> None:
    saved(network([5, 3], [], "softmax"), tmp_path)
    file = tmp_path / f"out.{ending}"
    printed = gpubp_("export", tmp_path, "-o", file)  # a run's folder
    assert printed.stdout.startswith(f"model exported to {file}\nlargest difference on 256 random rows, by ")
    assert printed.stderr == ""
    facts = json.loads(gpubp_("export", tmp_path, "-o", file, "--json").stdout)
    assert set(facts) == {"file", "largest_difference", "rows", "compared_with"}
    assert (facts["file"], facts["rows"]) == (str(file), 256)
    assert 0 < facts["largest_difference"] < 1e-6
    assert json.loads(gpubp_("export", tmp_path, "-o", file, "--json").stdout) == facts


def test_labels_that_do_not_follow_from_the_probabilities(tmp_path: Path) -> None:
    known = load_model(saved(network([5, 3], [], "softmax"), tmp_path), "cpu")
    pipeline = Pipeline.of(known.net, known.preprocessing)
    ours = pipeline.answers(known.net, known.preprocessing, np.zeros((2, 5)))
    assert difference(ours, ours, pipeline) == 0
    assert difference(ours, {**ours, "label": ours["label"] + 1}, pipeline) == np.inf
    assert difference(ours, {**ours, "probabilities": ours["probabilities"] * 0.9}, pipeline) > 0.01
    assert difference(ours, {name: value[:1] for name, value in ours.items()}, pipeline) == np.inf


def test_the_random_rows(tmp_path: Path) -> None:
    def rows(seed: int, **preprocessing: Any) -> Any:
        model = saved(network([preprocessing["inputs"], 3], [], "softmax"), tmp_path, **preprocessing["known"])
        return random_rows(load_model(model, "cpu").preprocessing, 2000, seed)

    table = {"inputs": 5, "known": {**TABLE, "classes": ["a", "b", "c"]}}
    drawn = rows(0, **table)
    np.testing.assert_array_equal(rows(0, **table), drawn)
    assert not np.array_equal(rows(1, **table), drawn)
    assert np.abs((drawn - SHIFT) * SCALE).max() < 6
    np.testing.assert_allclose(((drawn - SHIFT) * SCALE).std(axis=0), 1, rtol=0.1)
    images = rows(0, inputs=6, known={**IMAGES, "classes": ["a", "b", "c"]})
    assert (images.dtype, images.shape, images.min(), images.max()) == (np.uint8, (2000, 2, 3), 0, 255)


@pytest.mark.parametrize("name", ["model.txt", "model", "model.joblib", "onnx"])
def test_other_endings(name: str, tmp_path: Path) -> None:
    refused = gpubp_("export", saved(network([5, 3], [], "softmax"), tmp_path), "-o", tmp_path / name)
    assert refused.exit_code == 2
    assert ".onnx, .npz, .safetensors" in refused.stderr


@pytest.mark.parametrize("ending", ["onnx", "npz"])
def test_places_that_cannot_be_written(ending: str, tmp_path: Path) -> None:
    model = saved(network([5, 3], [], "softmax"), tmp_path)
    (tmp_path / f"folder.{ending}").mkdir()
    for out in (tmp_path / "absent" / f"out.{ending}", tmp_path / f"folder.{ending}"):
        refused = gpubp_("export", model, "-o", out)
        assert refused.exit_code == 1
        assert "cannot write" in refused.stderr
    assert sorted(os.listdir(tmp_path)) == [f"folder.{ending}", "model.safetensors"]


def test_a_model_that_float32_cannot_express(tmp_path: Path) -> None:
    net = gpubp.MLP([1, 2, 1], "identity", "identity", dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[1.0, 1 + 1e-9]], [[-1e9], [1e9]]], [[0.0, 0.0], [0.0]])
    np.testing.assert_allclose(net.forward([[3.0]]), 3, rtol=1e-6)
    model, file = saved(net, tmp_path), tmp_path / "model.onnx"
    file.write_text("an older export")
    refused = gpubp_("export", model, "-o", file)
    assert refused.exit_code == 1
    assert "differs from gpubp by 52 on random rows, more than 0.001, and was not written" in refused.stderr
    assert file.read_text() == "an older export"
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.safetensors"]
    assert gpubp_("export", model, "-o", tmp_path / "model.npz").exit_code == 0
    net.set_parameters([[[1.0, 1e39]], [[-1.0], [1.0]]])
    refused = gpubp_("export", saved(net, tmp_path), "-o", file)
    assert "weight_0 is too large for float32" in refused.stderr


@pytest.fixture
def cube() -> Iterator[str]:
    class Cube(Activation):
        forward, delta = gpubp.activations.bias_identity, None

    yield Cube.name
    del Activation.members[Cube.name]


@pytest.mark.parametrize("ending", ["onnx", "npz"])
def test_an_activation_of_the_users_own(cube: str, ending: str, tmp_path: Path) -> None:
    model = saved(network([5, 4, 3], cube, "softmax"), tmp_path)
    refused = gpubp_("export", model, "-o", tmp_path / f"out.{ending}")
    assert refused.exit_code == 1
    assert "activation 'cube'" in refused.stderr
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_classes_that_no_format_holds(tmp_path: Path) -> None:
    model = saved(network([5, 2], [], "softmax"), tmp_path, **TABLE, classes=[0, 2**64])
    refused = gpubp_("export", model, "-o", tmp_path / "out.npz")
    assert refused.exit_code == 1
    assert "classes" in refused.stderr
