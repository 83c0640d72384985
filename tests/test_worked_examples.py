"""The worked examples of five articles, held digit by digit: forward pass, deltas, gradients, a step, its effect."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from worked import DATA, EXAMPLES, Example, all_close, build, close, inputs, name, parameters, targets

import gpubp

Step = Callable[[gpubp.MLP, Example], None]

TRAINED = [example for example in EXAMPLES.values() if "after" in example]
ONE_WEIGHT = EXAMPLES["one-weight"]


def digits(example: Example) -> float:
    # The one-weight model is short enough for nearly every bit; its cost and gradient cancel a - y, which costs a few.
    return 4e-15 if example is ONE_WEIGHT else 1e-12


def by_train_step(net: gpubp.MLP, example: Example) -> None:
    loss = net.train_step(inputs(example), targets(example), gpubp.SGD(example["learning_rate"]))
    assert np.shape(loss) == ()
    close(float(loss), example["cost"], digits(example), "the loss of the step is the one before its update")


def by_apply_gradients(net: gpubp.MLP, example: Example) -> None:
    result = net.backprop(inputs(example), targets(example))
    net.apply_gradients(result.weight_grads, result.bias_grads, gpubp.SGD(example["learning_rate"]))


def by_published_gradients(net: gpubp.MLP, example: Example) -> None:
    weight_grads = [np.array(gradient) for gradient in example["weight_grads"]]
    bias_grads = [None if gradient is None else np.array(gradient) for gradient in example["bias_grads"]]
    net.apply_gradients(weight_grads, bias_grads, gpubp.SGD(example["learning_rate"]))


def by_fit(net: gpubp.MLP, example: Example) -> None:
    optimizer = gpubp.SGD(example["learning_rate"])
    net.fit(inputs(example), targets(example), epochs=1, batch_size="full", optimizer=optimizer, verbose=0)


STEPS = [by_train_step, by_apply_gradients, by_published_gradients, by_fit]


def test_every_example_is_here() -> None:
    assert len(EXAMPLES) == len(DATA["examples"]) == 13
    assert len(TRAINED) == 12
    assert len(DATA["output_deltas"]) == 4


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=name)
def test_forward(example: Example) -> None:
    close(build(example).forward(inputs(example)), example["outputs"], digits(example))


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=name)
def test_every_z_and_activation(example: Example) -> None:
    y = example.get("y", np.eye(example["sizes"][-1])[:1])
    result = build(example).backprop(inputs(example), np.array(y))
    all_close(result.zs, example["zs"], digits(example), "zs")
    all_close(result.activations, example["activations"], digits(example), "activations")
    close(result.outputs, example["outputs"], digits(example), "outputs")


@pytest.mark.parametrize("example", TRAINED, ids=name)
def test_loss_deltas_and_gradients(example: Example) -> None:
    net = build(example)
    result = net.backprop(inputs(example), targets(example))
    rtol = digits(example)
    assert isinstance(result.loss, float)
    close(result.loss, example["cost"], rtol, "loss")
    assert np.shape(result.sample_losses) == (len(example["x"]),)
    close(np.sum(result.sample_losses), example["cost"], rtol, "sample_losses")
    all_close(result.deltas, example["deltas"], rtol, "deltas")
    all_close(result.weight_grads, example["weight_grads"], rtol, "weight_grads")
    all_close(result.bias_grads, example["bias_grads"], rtol, "bias_grads")
    all_close(net.get_parameters()[0], example["weights"], 0.0, "backprop updates no weight")
    all_close(net.get_parameters()[1], example["biases"], 0.0, "backprop updates no bias")


@pytest.mark.parametrize("example", TRAINED, ids=name)
def test_gradients_of_activations_and_inputs(example: Example) -> None:
    result = build(example).backprop(inputs(example), targets(example))
    above = zip(example["deltas"], example["weights"], strict=True)
    first, *hidden = [np.array(delta) @ np.array(weight).T for delta, weight in above]
    all_close(result.activation_grads[:-1], hidden, what="activation_grads")
    assert np.shape(result.activation_grads[-1]) == np.shape(example["outputs"])
    close(result.input_grad, example.get("input_grad", first), what="input_grad")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("example", TRAINED, ids=name)
def test_one_step(example: Example, step: Step) -> None:
    net = build(example)
    step(net, example)
    after, rtol = example["after"], digits(example)
    weights, biases = net.get_parameters()
    all_close(weights, after["weights"], rtol, "weights")
    all_close(biases, after["biases"], rtol, "biases")
    result = net.backprop(inputs(example), targets(example))
    close(net.forward(inputs(example)), after["outputs"], rtol, "outputs")
    close(result.outputs, after["outputs"], rtol, "outputs")
    close(result.loss, after["cost"], rtol, "cost")
    assert result.loss < example["cost"]


@pytest.mark.parametrize("example", [e for e in TRAINED if len(e["x"]) > 1], ids=name)
def test_mean_is_the_sum_over_the_number_of_samples(example: Example) -> None:
    net, count = build(example, reduction="mean"), len(example["x"])
    result = net.backprop(inputs(example), targets(example))
    close(result.loss, example["cost"] / count)
    close(np.sum(result.sample_losses), example["cost"])
    all_close(result.deltas, [np.array(delta) / count for delta in example["deltas"]], what="deltas")
    all_close(result.weight_grads, [np.array(gradient) / count for gradient in example["weight_grads"]], what="weights")
    all_close(result.bias_grads, [np.array(gradient) / count for gradient in example["bias_grads"]], what="biases")
    net.train_step(inputs(example), targets(example), gpubp.SGD(example["learning_rate"] * count))
    all_close(net.get_parameters()[0], example["after"]["weights"], what="weights after a step of the same length")


@pytest.mark.parametrize("example", [e for e in TRAINED if len(e["x"]) > 1], ids=name)
def test_a_batch_is_the_sum_of_its_samples(example: Example) -> None:
    net = build(example)
    x, y = inputs(example), targets(example)
    results = [net.backprop(x[row : row + 1], y[row : row + 1]) for row in range(len(x))]
    close(sum(result.loss for result in results), example["cost"])
    for layer, expected in enumerate(example["weight_grads"]):
        # Samples of opposite sign cancel, so the rounding is that of the terms and not of their sum.
        actual = sum(result.weight_grads[layer] for result in results)
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15, strict=False)


@pytest.mark.parametrize("case", DATA["output_deltas"], ids=name)
def test_output_delta(case: Example) -> None:
    result = build(case).backprop(inputs(case), targets(case))
    close(result.outputs, case["outputs"])
    all_close(result.deltas, [case["delta"]])
    factor = 2.0 if case["loss"].get("half") is False else 1.0
    close(result.deltas[0], factor * (np.array(case["outputs"]) - np.array(case["y"])), what="o - y")


def test_hill_forward_as_published() -> None:
    example = EXAMPLES["hill-forward"]
    outputs = build(example).forward(inputs(example))
    assert np.round(outputs, 10).tolist() == example["published_outputs"]


def test_hill_repeated() -> None:
    example = EXAMPLES["hill"]
    net, optimizer = build(example), gpubp.SGD(example["learning_rate"])
    x, y = inputs(example), targets(example)
    # Read only at the end: a loss that was handed out must not change when later steps reuse their buffers.
    losses = [net.train_step(x, y, optimizer) for _ in range(1000)]
    costs = [float(loss) for loss in losses] + [net.backprop(x, y).loss]
    for steps, cost in example["costs_after_steps"].items():
        close(costs[int(steps)], cost, what=f"after {steps} steps")
    assert [round(costs[steps], 8) for steps in (10, 100, 1000)] == [0.11561818, 0.0106319, 0.00093634]
    assert all(later < earlier for earlier, later in pairwise(costs))


def test_hill_repeated_through_fit() -> None:
    example = EXAMPLES["hill"]
    net, optimizer = build(example), gpubp.SGD(example["learning_rate"])
    x, y = inputs(example), targets(example)
    # A second fit goes on from where the first one stopped.
    for epochs, cost in [(10, 0.11561818098968502), (90, 0.010631902307956444), (900, 0.0009363361236018042)]:
        net.fit(x, y, epochs=epochs, batch_size="full", optimizer=optimizer, verbose=0)
        close(net.backprop(x, y).loss, cost)


def assert_masked(net: gpubp.MLP, example: Example) -> None:
    gradients = net.backprop(inputs(example), targets(example)).weight_grads
    for weight, gradient, mask in zip(net.get_parameters()[0], gradients, example["masks"], strict=True):
        absent = np.array(mask) == 0 if mask else np.zeros(weight.shape, bool)
        assert not np.any(weight[absent])
        assert not np.any(gradient[absent])
        assert np.all(weight[~absent])
        assert np.all(gradient[~absent])


@pytest.mark.parametrize("step", STEPS)
def test_masked_weights_stay_exactly_zero(step: Step) -> None:
    example = EXAMPLES["yehoshua-sparse"]
    net = build(example)
    weights, biases = parameters(example)
    net.set_parameters([np.where(weight == 0, 9.0, weight) for weight in weights], biases)
    assert_masked(net, example)
    step(net, example)
    # Adam divides by the size of the gradient: it would turn the smallest leak into a whole step.
    for optimizer in (gpubp.Adam(0.1), gpubp.SGD(0.1, momentum=0.9)):
        for _ in range(3):
            net.train_step(inputs(example), targets(example), optimizer)
            assert_masked(net, example)


def test_gradients_from_outside_move_no_masked_weight() -> None:
    example = EXAMPLES["yehoshua-sparse"]
    net = build(example)
    weights, biases = parameters(example)
    bias_grads = [None if bias is None else np.ones_like(bias) for bias in biases]
    net.apply_gradients([np.ones_like(weight) for weight in weights], bias_grads, gpubp.SGD(0.5))
    moved = [np.where(weight == 0, 0.0, weight - 0.5) for weight in weights]
    all_close(net.get_parameters()[0], moved)
    all_close(net.get_parameters()[1], [None if bias is None else bias - 0.5 for bias in biases])


def one_weight_run(learning_rate: float, steps: int) -> list[float]:
    net, optimizer = build(ONE_WEIGHT), gpubp.SGD(learning_rate)
    x, y = inputs(ONE_WEIGHT), targets(ONE_WEIGHT)
    weights = [float(net.get_parameters()[0][0][0, 0])]
    for _ in range(steps):
        net.train_step(x, y, optimizer)
        weights.append(float(net.get_parameters()[0][0][0, 0]))
    return weights


def one_weight_exactly(learning_rate: float, steps: int) -> list[Fraction]:
    # dC/dw = 2 (1.5 w - 0.5) 1.5 = 4.5 (w - 1/3), hence each step multiplies the distance to 1/3 by 1 - 4.5 r.
    factor = 1 - Fraction(9, 2) * Fraction(learning_rate)
    return [Fraction(1, 3) + Fraction(7, 15) * factor**k for k in range(steps + 1)]


def test_one_weight_trajectory() -> None:
    published = ONE_WEIGHT["trajectory"]
    steps = len(published["weights"]) - 1
    assert steps == 25
    net, optimizer = build(ONE_WEIGHT), gpubp.SGD(ONE_WEIGHT["learning_rate"])
    x, y = inputs(ONE_WEIGHT), targets(ONE_WEIGHT)
    for k in range(steps + 1):
        result = net.backprop(x, y)
        close(net.get_parameters()[0][0], [[published["weights"][k]]], 1e-14, f"w after {k} steps")
        close(result.outputs, [[published["outputs"][k]]], 1e-14, f"a after {k} steps")
        # a goes to y = 0.5: their difference keeps the rounding of a, 1e-16, however small it becomes.
        error = abs(published["outputs"][k] - 0.5)
        assert abs(result.weight_grads[0][0, 0] - published["gradients"][k]) <= 3e-15, f"gradient after {k} steps"
        assert abs(result.loss - published["costs"][k]) <= 2e-15 * error, f"cost after {k} steps"
        net.train_step(x, y, optimizer)


def test_one_weight_goes_to_a_third() -> None:
    weights = one_weight_run(ONE_WEIGHT["learning_rate"], 100)
    exactly = one_weight_exactly(ONE_WEIGHT["learning_rate"], 100)
    assert max(abs(Fraction(w) - e) for w, e in zip(weights, exactly, strict=True)) <= 1e-15
    assert abs(weights[-1] - 1 / 3) <= 2.5e-16
    assert [f"{weight:.4f}" for weight in weights].index("0.3333") == 18


@pytest.mark.parametrize("text", ONE_WEIGHT["learning_rate_sweep"])
def test_one_weight_learning_rates(text: str) -> None:
    published = ONE_WEIGHT["learning_rate_sweep"][text]
    rate, steps = float(text), len(published) - 1
    weights = one_weight_run(rate, steps)
    np.testing.assert_allclose(weights, published, rtol=1e-12, atol=0)
    np.testing.assert_allclose(weights, [float(w) for w in one_weight_exactly(rate, steps)], rtol=1e-12, atol=0)
    errors = np.array(weights) - 1 / 3
    sides, nearer = np.sign(errors[1:] * errors[:-1]), np.abs(errors[1:]) < np.abs(errors[:-1])
    if rate == 2 / 9:
        assert np.max(np.abs(errors[1:])) <= 2.5e-16, "one step is enough"
    elif rate < 2 / 9:
        assert np.all(sides == 1), "from one side"
        assert np.all(nearer)
    elif rate == 4 / 9:
        np.testing.assert_allclose(weights, [0.8, -2 / 15] * 5 + [0.8], rtol=1e-14, err_msg="bounces for ever")
    else:
        assert np.all(sides == -1), "from side to side"
        assert np.all(nearer) if rate < 4 / 9 else not np.any(nearer)
