"""The chain rule for one parameter: factors multiply, and paths add up, to the gradient of the backward pass."""

from itertools import pairwise
from math import isclose
from typing import Any

import numpy as np
import pytest
from worked import EXAMPLES, Example, build, inputs, name, targets

import gpubp

STEPS = [example for example in EXAMPLES.values() if "after" in example]


def traced(example: Example) -> gpubp.Trace:
    return gpubp.trace(build(example), inputs(example), targets(example), example["learning_rate"])


def parameters(trace: gpubp.Trace) -> list[str]:
    """The names of all parameters that a mask does not leave out."""
    found = []
    for layer in trace.layers:
        mask = np.ones(layer.weight.shape) if layer.mask is None else layer.mask
        found += [trace.names.at("w", layer.index, *map(int, index)).name for index in np.argwhere(mask)]
        if layer.bias is not None:
            found += [trace.names.at("b", layer.index, j).name for j in range(len(layer.bias))]
    return found


def gradient(trace: gpubp.Trace, parameter: str) -> float:
    where = trace.names.find(parameter)
    layer = trace.layers[where.layer]
    return float((layer.bias_grad if where.i is None else layer.weight_grad)[where.index])


@pytest.mark.parametrize("example", STEPS, ids=name)
def test_the_sum_over_all_paths_is_the_gradient(example: Example) -> None:
    trace = traced(example)
    for parameter in parameters(trace):
        chain, true = trace.weight(parameter), gradient(trace, parameter)
        size = sum(abs(path.product) for path in chain.paths)
        assert abs(sum(path.product for path in chain.paths) - true) <= 1e-14 * size, parameter
        assert abs(sum(term.product for term in chain.terms) - true) <= 1e-14 * size, parameter
        assert chain.gradient == true
        assert chain.agrees
        assert len(chain.paths) == chain.path_count


def test_the_factors_of_an_output_weight() -> None:
    chain = traced(EXAMPLES["hill"]).weight("w5")
    assert [factor.symbol for factor in chain.factors] == ["∂C/∂o1", "f'(z_o1)", "h1"]
    values = [2 * (0.7122574322957418 - 1), 0.20494678243521858, 0.41338242108267]
    np.testing.assert_allclose([factor.value for factor in chain.factors], values, rtol=1e-13)
    assert isclose(
        chain.factors[0].value * chain.factors[1].value * chain.factors[2].value, chain.gradient, rel_tol=1e-15
    )
    assert isclose(chain.after, 0.70487559046914, rel_tol=1e-14)


def test_the_paths_of_a_hidden_weight() -> None:
    chain = traced(EXAMPLES["hill"]).weight("w1")
    assert [path.units for path in chain.paths] == [("o1", "h1"), ("o2", "h1")]
    symbols = [factor.symbol for factor in chain.paths[1].factors]
    assert symbols == ["∂C/∂o2", "f'(z_o2)", "w6", "f'(z_h1)", "x1"]
    assert isclose(chain.total, -0.06416790496445328, rel_tol=1e-13)


def test_a_bias_has_one_in_place_of_the_activation_below() -> None:
    chain = traced(EXAMPLES["hill"]).weight("b1")
    assert (chain.factors[-1].symbol, chain.factors[-1].value) == ("1", 1.0)
    assert isclose(chain.total, -0.03208395248222664, rel_tol=1e-13)


def test_loss_and_activation_in_one_formula_are_one_factor() -> None:
    chain = traced(EXAMPLES["yehoshua-sparse"]).weight("W[2][1,0]")
    assert [factor.symbol for factor in chain.factors] == ["∂C/∂z_o1", "h5"]
    assert isclose(chain.factors[0].value, 0.6718458612293685 - 1, rel_tol=1e-14)


def test_no_path_leads_through_a_masked_connection() -> None:
    trace = traced(EXAMPLES["yehoshua-sparse"])
    assert trace.weight("b3").path_count == 1  # h3 reaches h5 alone
    assert trace.weight("w1").path_count == 2
    assert [path.units for path in trace.weight("b3").paths] == [("o1", "h5", "h3")]


def test_a_masked_weight_has_no_gradient_to_explain() -> None:
    with pytest.raises(gpubp.DataError, match=r"w3 \(W\[0\]\[0,2\]\) is masked"):
        traced(EXAMPLES["yehoshua-sparse"]).weight("w3")


def test_of_a_batch_there_is_a_term_a_sample() -> None:
    trace = traced(EXAMPLES["four-layer-softmax-sigmoid"])
    chain = trace.weight("w1")
    assert [term.sample for term in chain.terms] == [0, 1, 2]
    assert chain.path_count == len(chain.paths) == 3 * 2 * 3
    with pytest.raises(gpubp.DataError, match="3 samples"):
        _ = chain.factors


def test_too_many_paths_are_counted_and_not_listed() -> None:
    net = gpubp.MLP([2, 50, 50, 50, 2], "tanh", dtype="float64", device="cpu", seed=0)
    chain = gpubp.trace(net, [[1.0, -1.0]], [1], 0.1).weight("w1")
    assert chain.path_count == 50 * 50 * 2
    deep = gpubp.trace(gpubp.MLP([2, 90, 90, 90, 90, 2], "tanh", device="cpu", seed=0), [[1.0, -1.0]], [1], 0.1)
    assert deep.weight("w1").path_count == 90**3 * 2
    assert deep.weight("w1").agrees, "by the terms"
    assert "1,458,000 paths" in str(deep.weight("w1"))
    with pytest.raises(gpubp.DataError, match="1,458,000 paths lead to w1"):
        _ = deep.weight("w1").paths


def test_a_hidden_softmax_has_no_paths_of_plain_factors(rng: np.random.Generator) -> None:
    net = gpubp.MLP([2, 3, 3, 2], ["softmax", "tanh"], dtype="float64", device="cpu", seed=0)
    trace = gpubp.trace(net, rng.normal(size=(2, 2)), [1, 0], 0.1)
    assert trace.weight("w1").agrees
    assert not trace.weight("w1").listed
    with pytest.raises(gpubp.DataError, match=r"layer 0 .*softmax"):
        _ = trace.weight("w1").paths
    assert trace.weight("W[1][0,0]").listed, "below its input there is no such layer"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid", "elu"])
def test_rounding_is_no_disagreement(dtype: str, activation: str, rng: np.random.Generator) -> None:
    net = gpubp.MLP([20, 30, 20, 5], activation, dtype=dtype, device="cpu", seed=0)
    trace = gpubp.trace(net, rng.normal(size=(3, 20)), [1, 0, 4], 0.1)
    for parameter in ("w1", "w77", "b3", "W[1][3,4]", "W[2][0,0]"):
        assert trace.weight(parameter).agrees, str(trace.weight(parameter))


def test_a_wrong_gradient_is_said_to_be_one() -> None:
    trace: Any = traced(EXAMPLES["hill"])
    trace.layers[0].weight_grad[0, 0] *= 1.01
    chain = trace.weight("w1")
    assert not chain.agrees
    assert chain.error == pytest.approx(0.01 * 0.0641679, rel=1e-4)
    assert "is NOT the gradient" in str(chain)


def test_a_gradient_of_zero_says_why() -> None:
    net = gpubp.MLP([1, 2, 1], "relu", "identity", use_bias=False, dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[1.0, -1.0]], [[1.0], [1.0]]])
    trace = gpubp.trace(net, [[2.0], [3.0]], [[1.0], [1.0]], 0.1)
    assert "It is 0, and no step moves w2, since f'(z_h2) is 0." in str(trace.weight("w2"))
    assert "It is 0" not in str(trace.weight("w1"))


def test_json_has_every_path() -> None:
    facts = traced(EXAMPLES["hill"]).weight("w1").facts()
    assert facts["parameter"]["path"] == "W[0][0,0]"
    assert [path["product"] for path in facts["paths"]] == pytest.approx([-0.0400414990751905, -0.0241264058892628])
    assert facts["agrees"] is True


def test_a_chain_of_units_is_one_product() -> None:
    trace = traced(EXAMPLES["ufldl-chain"])
    for parameter in ("w1", "w2", "w3"):
        assert trace.weight(parameter).path_count == 1
    below, above = pairwise([len(trace.weight(parameter).paths[0].factors) for parameter in ("w1", "w2", "w3")])
    assert below[0] - below[1] == above[0] - above[1] == 2  # a weight and a slope a layer
