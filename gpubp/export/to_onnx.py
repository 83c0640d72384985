"""A model as an ONNX graph in float32: raw rows in, any number at once; label and probabilities, or values, out."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from gpubp import __version__
from gpubp.activations import (
    ELU,
    GELU,
    GELU_CUBIC,
    GELU_SLOPE,
    SELU,
    SELU_ALPHA,
    SELU_SCALE,
    Activation,
    Exp,
    FastSigmoid,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gpubp.errors import GpubpError
from gpubp.export.pipeline import Answers, Pipeline

# The oldest in which Softmax means one axis, so that every runtime since onnxruntime 1.6 (2020) takes the file.
OPSET, IR_VERSION = 13, 7
MOST_BYTES = 2**31 - 2**20  # protobuf's bound, less what is not weights


def _onnx() -> Any:
    try:
        return import_module("onnx")
    except ImportError:
        raise GpubpError("an ONNX file needs the package onnx; pip install 'gpubp[onnx]'") from None


class Graph:
    """Nodes and constants, in the order in which they are added."""

    def __init__(self) -> None:
        self.helper, self.numpy_helper = _onnx().helper, import_module("onnx.numpy_helper")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """A node; returns its output's name."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """A constant, of float32 if it is a number that is not whole."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise GpubpError(f"the model's {name} is too large for float32, which ONNX files hold; export to .npz")
        elif array.dtype.kind == "U":
            array = array.astype(object)
        if all(constant.name != name for constant in self.constants):
            self.constants.append(self.numpy_helper.from_array(array, name))
        return name


def _gelu(graph: Graph, z: str, activation: Activation, y: str) -> None:
    square = graph.add("Mul", [z, z])
    cubic = graph.add("Mul", [square, graph.constant("gelu_cubic", GELU_SLOPE * GELU_CUBIC)])
    slope = graph.add("Add", [cubic, graph.constant("gelu_slope", GELU_SLOPE)])
    tanh = graph.add("Tanh", [graph.add("Mul", [slope, z])])
    gate = graph.add("Mul", [graph.add("Add", [tanh, graph.constant("one", 1.0)]), graph.constant("half", 0.5)])
    graph.add("Mul", [z, gate], y)


def _silu(graph: Graph, z: str, activation: Activation, y: str) -> None:
    graph.add("Mul", [z, graph.add("Sigmoid", [z])], y)


def _operator(name: str, **settings: Callable[[Any], float]) -> Callable[[Graph, str, Any, str], None]:
    """An activation that ONNX has: its attributes as functions of the activation."""

    def add(graph: Graph, z: str, activation: Any, y: str) -> None:
        graph.add(name, [z], y, **{key: setting(activation) for key, setting in settings.items()})

    return add


ACTIVATIONS: dict[type[Activation], Callable[[Graph, str, Any, str], None]] = {
    Identity: _operator("Identity"),
    Sigmoid: _operator("Sigmoid"),
    FastSigmoid: _operator("Sigmoid"),
    Tanh: _operator("Tanh"),
    ReLU: _operator("Relu"),
    LeakyReLU: _operator("LeakyRelu", alpha=lambda activation: activation.slope),
    ELU: _operator("Elu", alpha=lambda activation: activation.alpha),
    SELU: _operator("Selu", alpha=lambda _: SELU_ALPHA, gamma=lambda _: SELU_SCALE),
    Softplus: _operator("Softplus"),
    SiLU: _silu,
    GELU: _gelu,
    Exp: _operator("Exp"),
    Softmax: _operator("Softmax", axis=lambda _: 1),
}


def content(pipeline: Pipeline) -> bytes:
    graph = Graph()
    if sum(4 * weight.size for weight in pipeline.weights) > MOST_BYTES:
        raise GpubpError("the model's weights take more than the 2 GiB that an ONNX file can hold; export to .npz")
    y = _inputs(graph, pipeline)
    last = {"classes": "probabilities", "labels": "probabilities"}.get(pipeline.task, "outputs")
    for layer, activation in enumerate(pipeline.activations):
        if type(activation) not in ACTIVATIONS:
            raise GpubpError(f"activation {activation.name!r} cannot be exported")
        names = [f"weight_{layer}", f"bias_{layer}"]
        values = (pipeline.weights[layer], pipeline.biases[layer])
        z = graph.add("Gemm", [y, *map(graph.constant, names, values)], f"z_{layer}")
        y = f"y_{layer}" if layer < len(pipeline.activations) - 1 else last
        ACTIVATIONS[type(activation)](graph, z, activation, y)
    outputs = _answers(graph, y, pipeline)
    serialized: bytes = _model(graph, outputs, pipeline).SerializeToString()
    return serialized


def _inputs(graph: Graph, pipeline: Pipeline) -> str:
    """From the rows `x` as they are to the network's inputs."""
    y = "x" if len(pipeline.shape) == 1 else graph.add("Flatten", ["x"], "flat", axis=1)
    # In two parts, as one float32 would lose digits where columns vary little around large values, such as years.
    with np.errstate(over="ignore"):
        high = pipeline.shift.astype(np.float32)
    low = pipeline.shift - high
    for name, part in (("shift", high), ("shift_rest", low)):
        if part.any():
            y = graph.add("Sub", [y, graph.constant(name, part)])
    if (pipeline.scale != 1).any():
        y = graph.add("Mul", [y, graph.constant("scale", pipeline.scale)], "inputs")
    return y


def _answers(graph: Graph, y: str, pipeline: Pipeline) -> list[Any]:
    """From the network's outputs `y` to the graph's, which are described in the returned list."""
    types, info = _onnx().TensorProto, graph.helper.make_tensor_value_info
    outputs = len(pipeline.biases[-1])
    if pipeline.task == "values":
        scaled = graph.add("Mul", [y, graph.constant("target_scale", pipeline.target_scale)])
        graph.add("Add", [scaled, graph.constant("target_shift", pipeline.target_shift)], "values")
        return [info("values", types.FLOAT, ["N", outputs])]
    if pipeline.task == "classes":
        graph.add("ArgMax", [y], "index", axis=1, keepdims=0)
    else:
        chosen = graph.add("GreaterOrEqual", [y, graph.constant("threshold", 0.5)])
        if pipeline.task == "labels":
            graph.add("Cast", [chosen], "label", to=types.INT64)
            return [info("label", types.INT64, ["N", outputs]), info("probabilities", types.FLOAT, ["N", outputs])]
        column = graph.add("Cast", [chosen], to=types.INT64)
        graph.add("Squeeze", [column, graph.constant("axis", np.array([1]))], "index")
        graph.add("Concat", [graph.add("Sub", [graph.constant("one", 1.0), y]), y], "probabilities", axis=1)
    graph.add("Gather", [graph.constant("classes", pipeline.classes), "index"], "label", axis=0)
    kind = types.STRING if pipeline.classes.dtype.kind == "U" else types.INT64
    return [info("label", kind, ["N"]), info("probabilities", types.FLOAT, ["N", max(2, outputs)])]


def _model(graph: Graph, outputs: list[Any], pipeline: Pipeline) -> Any:
    onnx = _onnx()
    x = graph.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *pipeline.shape], "raw rows")
    model = graph.helper.make_model(
        graph.helper.make_graph(graph.nodes, "gpubp", [x], outputs, graph.constants),
        producer_name="gpubp",
        producer_version=__version__,
        doc_string=f"{pipeline.title}; x is raw data, as the model was trained on",
        opset_imports=[graph.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    facts: dict[str, str] = {"task": pipeline.task}
    if pipeline.target is not None:
        facts["target"] = pipeline.target
    if pipeline.features is not None:
        facts["features"] = json.dumps(pipeline.features)
    if pipeline.classes is not None:
        facts["classes"] = json.dumps(pipeline.classes.tolist())
    graph.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model


def answers(content: bytes, x: Any) -> tuple[Answers, str]:
    """What the graph says to raw rows, by onnxruntime, or by onnx itself where that is not installed."""
    x = x.astype(np.float32)
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        session = import_module("onnx.reference").ReferenceEvaluator(_onnx().load_from_string(content))
        names, judge = session.output_names, f"onnx {_onnx().__version__}"
    else:
        session = runtime.InferenceSession(content, _quiet(runtime), providers=["CPUExecutionProvider"])
        names, judge = [output.name for output in session.get_outputs()], f"onnxruntime {runtime.__version__}"
    with np.errstate(all="ignore"):
        found = dict(zip(names, session.run(None, {"x": x}), strict=True))
    if "label" in found and found["label"].dtype.kind == "O":
        found["label"] = found["label"].astype(str)
    return found, judge


def _quiet(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are about its own optimizations
    return options
