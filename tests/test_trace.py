"""The trace of a step: what backprop, the update and a second pass give, of samples and batches, on any device."""

import json
from typing import Any

import numpy as np
import pytest
from worked import EXAMPLES, Example, all_close, build, close, inputs, name, targets

import gpubp

STEPS = [example for example in EXAMPLES.values() if "after" in example]


def traced(example: Example) -> gpubp.Trace:
    return gpubp.trace(build(example), inputs(example), targets(example), example["learning_rate"])


@pytest.mark.parametrize("example", STEPS, ids=name)
def test_every_digit_of_the_worked_examples(example: Example) -> None:
    trace = traced(example)
    for moment, values in ((trace.before, example), (trace.after, example["after"])):
        close(moment.loss, values["cost"])
        close(moment.outputs, values["outputs"])
    fields = {
        "z": "zs",
        "delta": "deltas",
        "weight": "weights",
        "weight_grad": "weight_grads",
        "bias": "biases",
        "bias_grad": "bias_grads",
    }
    for field, key in fields.items():
        all_close([getattr(layer, field) for layer in trace.layers], example[key], what=field)
    all_close([layer.y for layer in trace.layers], example["activations"][1:], what="y")
    all_close([layer.x for layer in trace.layers], example["activations"][:-1], what="x")
    all_close([layer.weight_after for layer in trace.layers], example["after"]["weights"], what="weight_after")
    all_close([layer.bias_after for layer in trace.layers], example["after"]["biases"], what="bias_after")
    assert (trace.learning_rate, trace.sizes) == (example["learning_rate"], example["sizes"])


@pytest.mark.parametrize("activation", sorted(gpubp.Activation.members))
def test_the_slope_times_the_gradient_is_the_delta(activation: str, rng: np.random.Generator) -> None:
    net = gpubp.MLP([3, 5, 4, 2], activation, "identity", dtype="float64", device="cpu", seed=1)
    trace = gpubp.trace(net, rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), 0.01)
    for layer in trace.layers:
        if layer.activation == "softmax":
            assert layer.slope is None
        else:
            np.testing.assert_allclose(layer.activation_grad * layer.slope, layer.delta, rtol=1e-14, atol=1e-300)


def test_the_slope_of_a_sigmoid_is_taken_at_z() -> None:
    trace = traced(EXAMPLES["hill"])
    np.testing.assert_allclose(trace.layers[1].slope, [[0.20494678243521858, 0.2489045506038205]], rtol=1e-14)
    np.testing.assert_allclose(trace.layers[0].slope, [[0.24249739502250012, 0.061634460117586616]], rtol=1e-14)


def test_class_indices_become_rows(rng: np.random.Generator) -> None:
    net = gpubp.MLP([3, 4, 3], dtype="float64", device="cpu", seed=0)
    x = rng.normal(size=(4, 3))
    one, other = gpubp.trace(net, x, [0, 2, 1, 2], 0.1), gpubp.trace(net, x, np.eye(3)[[0, 2, 1, 2]], 0.1)
    np.testing.assert_array_equal(one.y, np.eye(3)[[0, 2, 1, 2]])
    assert one.to_json() == other.to_json()
    assert one.layers[-1].fused


def test_the_network_is_left_as_it_was(rng: np.random.Generator) -> None:
    net = gpubp.MLP([3, 4, 3], dropout=0.5, dtype="float64", device="cpu", seed=0)
    state, weights = net._state(), net.get_parameters()
    x = rng.normal(size=(4, 3))
    trace = gpubp.trace(net, x, [0, 2, 1, 2], 0.1)
    assert net._state() == state
    all_close(net.get_parameters()[0], [w.tolist() for w in weights[0]], 0.0)
    np.testing.assert_array_equal(trace.before.outputs, net.forward(x))
    kept = trace.to_json()
    net.fit(x, [0, 2, 1, 2], epochs=2, verbose=0)
    assert trace.to_json() == kept, "a trace is no view of the network"


@pytest.mark.parametrize("rate", [0, -0.1, float("nan"), "fast"])
def test_a_learning_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(gpubp.DataError, match="learning_rate must be a number greater than 0"):
        gpubp.trace(gpubp.MLP([2, 2], seed=0), [[1.0, 2.0]], [1], rate)


def test_inputs_are_checked() -> None:
    net = gpubp.MLP([2, 2], seed=0)
    with pytest.raises(gpubp.ShapeError, match="x has"):
        gpubp.trace(net, [[1.0, 2.0, 3.0]], [1], 0.1)
    with pytest.raises(gpubp.DataError, match=r"x .*finite|x holds"):
        gpubp.trace(net, [[1.0, float("nan")]], [1], 0.1)
    with pytest.raises(gpubp.ShapeError, match="y has"):
        gpubp.trace(net, [[1.0, 2.0]], [1, 0], 0.1)


def test_a_step_too_far_is_told_and_not_raised() -> None:
    net = gpubp.MLP([2, 3, 1], "relu", "identity", device="cpu", seed=0)
    trace = gpubp.trace(net, [[1e5, 1e5]], [[1.0]], 1e30)
    assert not trace.after.loss < trace.before.loss
    assert "did not fall" in str(trace)
    assert json.loads(trace.to_json())["after"]["loss"] is None, "JSON knows no infinity"


def test_a_gradient_that_overflows_is_named() -> None:
    net = gpubp.MLP([2, 3, 1], "relu", "identity", device="cpu", seed=0)
    with pytest.raises(gpubp.DataError, match=r"the gradient of weights\[0\] overflows float32 .*scale x"):
        gpubp.trace(net, [[1e30, 1e30]], [[1.0]], 0.1)


def test_a_sample_that_is_learned_is_not_blamed_on_the_learning_rate() -> None:
    net = gpubp.MLP([1, 1], output="identity", loss="squared_error", use_bias=False, device="cpu", seed=0)
    net.set_parameters([[[2.0]]])
    told = " ".join(str(gpubp.trace(net, [[1.0]], [[2.0]], 0.1)).split())
    assert "next to nothing left to learn" in told
    assert "smaller learning rate" not in told


def test_what_is_no_network_is_named() -> None:
    not_a_network: Any = "runs/iris"
    with pytest.raises(gpubp.DataError, match=r"net must be a gpubp.MLP, got 'runs/iris'"):
        gpubp.trace(not_a_network, [[1.0]], [[2.0]], 0.1)
    with pytest.raises(gpubp.DataError, match=r"net must be a gpubp.MLP, got 'runs/iris'"):
        gpubp.check_gradients(not_a_network, [[1.0]], [[2.0]])


def test_json_keeps_every_digit() -> None:
    example = EXAMPLES["hill"]
    facts = json.loads(traced(example).to_json())
    assert facts["layers"][0]["weight_grad"] == np.array(traced(example).layers[0].weight_grad).tolist()
    assert facts["layers"][0]["mask"] is None
    assert facts["before"]["outputs"] == traced(example).before.outputs.tolist()


def test_a_wide_network_is_summarised_unless_in_full() -> None:
    net = gpubp.MLP([64, 32, 10], device="cpu", seed=0)
    trace = gpubp.trace(net, np.ones((3, 64)), [1, 2, 3], 0.1)
    short, full = str(trace), trace.document(full=True)
    assert "trace.layers[0]" in short
    assert len(short.splitlines()) < 60
    rows = [len(block.rows) for block in full.blocks if hasattr(block, "rows")]
    assert rows == [3 * 32, 3 * 10, 64 * 32 + 32, 32 * 10 + 10, 3 * 10 + 1]


@pytest.mark.parametrize("example", [EXAMPLES["yehoshua-sparse"], EXAMPLES["four-layer-softmax-tanh"]], ids=name)
def test_the_device_gives_the_same(cuda: str, example: Example) -> None:
    expected, net = traced(example), build(example).to(cuda)
    found = gpubp.trace(net, inputs(example), targets(example), example["learning_rate"])
    assert found.device == net.device != "cpu"
    for one, other in zip(found.layers, expected.layers, strict=True):
        for field in ("z", "y", "slope", "delta", "weight_grad", "bias_grad", "weight_after"):
            a, b = getattr(one, field), getattr(other, field)
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-15, err_msg=field)
    assert found.after.loss == pytest.approx(expected.after.loss, rel=1e-10)
    last = f"w{sum(np.size(w) for w in example['weights'])}"
    assert found.weight(last).agrees
    assert found.weight("w1").agrees
