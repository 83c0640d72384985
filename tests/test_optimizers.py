"""Optimizers, initializers and schedules against their formulas, written out in plain Python."""

from collections.abc import Callable
from math import cos, pi, sqrt
from typing import Any

import numpy as np
import pytest

import gpubp

GRADIENTS = [0.5, -0.25, 1.5, 0.0, -2.0]
START = 0.75
Rule = Callable[[float, float, dict[str, float], int], float]  # parameter, gradient, state, step from 1 -> parameter


def sgd(rate: float, momentum: float = 0.0, nesterov: bool = False) -> Rule:
    def rule(p: float, g: float, s: dict[str, float], t: int) -> float:
        s["v"] = momentum * s.get("v", 0.0) + g
        return p - rate * (g + momentum * s["v"] if nesterov else s["v"])

    return rule


def rmsprop(rate: float, alpha: float, epsilon: float) -> Rule:
    def rule(p: float, g: float, s: dict[str, float], t: int) -> float:
        s["v"] = alpha * s.get("v", 0.0) + (1 - alpha) * g * g
        return p - rate * g / (sqrt(s["v"]) + epsilon)

    return rule


def adagrad(rate: float, epsilon: float) -> Rule:
    def rule(p: float, g: float, s: dict[str, float], t: int) -> float:
        s["v"] = s.get("v", 0.0) + g * g
        return p - rate * g / (sqrt(s["v"]) + epsilon)

    return rule


def adam(rate: float, beta1: float, beta2: float, epsilon: float) -> Rule:
    def rule(p: float, g: float, s: dict[str, float], t: int) -> float:
        s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * g
        s["v"] = beta2 * s.get("v", 0.0) + (1 - beta2) * g * g
        return p - rate * (s["m"] / (1 - beta1**t)) / (sqrt(s["v"] / (1 - beta2**t)) + epsilon)

    return rule


CASES: list[tuple[gpubp.Optimizer, Rule]] = [
    (gpubp.SGD(), sgd(0.1)),
    (gpubp.SGD(0.3), sgd(0.3)),
    (gpubp.SGD(0.3, momentum=0.9), sgd(0.3, 0.9)),
    (gpubp.SGD(0.3, momentum=0.8, nesterov=True), sgd(0.3, 0.8, True)),
    (gpubp.RMSprop(), rmsprop(0.001, 0.99, 1e-8)),
    (gpubp.RMSprop(0.2, alpha=0.5, epsilon=0.1), rmsprop(0.2, 0.5, 0.1)),
    (gpubp.Adagrad(), adagrad(0.01, 1e-10)),
    (gpubp.Adagrad(0.2, epsilon=0.1), adagrad(0.2, 0.1)),
    (gpubp.Adam(), adam(0.001, 0.9, 0.999, 1e-8)),
    (gpubp.Adam(0.2, beta1=0.5, beta2=0.75, epsilon=0.1), adam(0.2, 0.5, 0.75, 0.1)),
    (gpubp.AdamW(weight_decay=0), adam(0.001, 0.9, 0.999, 1e-8)),
]
LINEAR = np.linspace(1, 0, 11)[:10]
SCHEDULES: list[tuple[gpubp.Schedule, Any]] = [
    (gpubp.schedules.Constant(), np.ones(10)),
    (gpubp.schedules.Linear(), LINEAR),
    (gpubp.schedules.Linear(final=0.5), 0.5 + 0.5 * LINEAR),
    (gpubp.schedules.Linear(warmup=0.4), [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    (gpubp.schedules.Cosine(), [(1 + cos(pi * k / 10)) / 2 for k in range(10)]),
    (gpubp.schedules.Cosine(final=0.2), [0.2 + 0.8 * (1 + cos(pi * k / 10)) / 2 for k in range(10)]),
    (gpubp.schedules.OneCycle(), [1 / 4, 2 / 4, 3 / 4] + [(1 + cos(pi * k / 7)) / 2 for k in range(7)]),
    (gpubp.schedules.Exponential(), 0.01 ** (np.arange(10) / 10)),
    (gpubp.schedules.Step(0.5, drops=2), [1.0] * 5 + [0.5] * 5),
    (gpubp.schedules.Step(), [1.0] * 4 + [0.1] * 3 + [0.01] * 3),
    (gpubp.schedules.Inverse(), [1 / sqrt(k + 1) for k in range(10)]),
    (gpubp.schedules.Inverse(1.0), [1 / (k + 1) for k in range(10)]),
]
# The variance of each initializer at a fan-in of 300 and a fan-out of 200.
VARIANCES = {
    gpubp.initializers.Uniform(0.3): 0.3**2 / 3,
    gpubp.initializers.Normal(0.2): 0.2**2,
    gpubp.initializers.XavierUniform(): 2 / 500,
    gpubp.initializers.XavierNormal(): 2 / 500,
    gpubp.initializers.HeUniform(): 2 / 300,
    gpubp.initializers.HeNormal(): 2 / 300,
    gpubp.initializers.LecunUniform(): 1 / 300,
    gpubp.initializers.LecunNormal(): 1 / 300,
}
UNIFORM = [initializer for initializer in VARIANCES if "uniform" in initializer.name]
NORMAL = [initializer for initializer in VARIANCES if "normal" in initializer.name]


def one_weight() -> gpubp.MLP:
    net = gpubp.MLP([1, 1], output="identity", dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[START]]], [[START]])
    return net


def steps(optimizer: gpubp.Optimizer) -> list[tuple[float, float]]:
    """The weight and the bias after each gradient."""
    optimizer.reset()
    net, seen = one_weight(), []
    for gradient in GRADIENTS:
        net.apply_gradients([[[gradient]]], [[gradient]], optimizer)
        seen.append((float(net.weights[0][0, 0]), float(net.biases[0][0])))
    return seen


def by_hand(rule: Rule, decay: float = 0.0) -> list[float]:
    p, state, seen = START, {}, []
    for step, gradient in enumerate(GRADIENTS, 1):
        p = rule(p, gradient + decay * p, state, step)
        seen.append(p)
    return seen


@pytest.mark.parametrize(("optimizer", "rule"), CASES, ids=[repr(optimizer) for optimizer, _ in CASES])
def test_formula(optimizer: gpubp.Optimizer, rule: Rule) -> None:
    expected = by_hand(rule)
    np.testing.assert_allclose(steps(optimizer), [[p, p] for p in expected], rtol=1e-14)
    assert optimizer.steps == 5


@pytest.mark.parametrize(("optimizer", "rule"), CASES[:-1], ids=[repr(optimizer) for optimizer, _ in CASES[:-1]])
def test_weight_decay_is_for_weights_alone(optimizer: gpubp.Optimizer, rule: Rule) -> None:
    decaying = type(optimizer).from_config({**optimizer.config(), "weight_decay": 0.3})
    seen = np.array(steps(decaying))
    np.testing.assert_allclose(seen[:, 0], by_hand(rule, 0.3), rtol=1e-14)
    np.testing.assert_allclose(seen[:, 1], by_hand(rule), rtol=1e-14)


def test_adamw_decays_the_weights_themselves() -> None:
    inner, p, state, expected = adam(0.1, 0.9, 0.999, 1e-8), START, {}, []
    for step, gradient in enumerate(GRADIENTS, 1):
        p = inner(p * (1 - 0.1 * 0.3), gradient, state, step)
        expected.append(p)
    seen = np.array(steps(gpubp.AdamW(0.1, weight_decay=0.3)))
    np.testing.assert_allclose(seen[:, 0], expected, rtol=1e-14)
    np.testing.assert_allclose(seen[:, 1], by_hand(adam(0.1, 0.9, 0.999, 1e-8)), rtol=1e-14)
    assert gpubp.AdamW().weight_decay == 0.01


def test_every_optimizer_is_tested() -> None:
    own = [m for m in gpubp.Optimizer.members.values() if m.__module__.startswith("gpubp")]
    assert {type(optimizer) for optimizer, _ in CASES} == set(own)


@pytest.mark.parametrize("optimizer", [gpubp.SGD(0.1, 0.9), gpubp.Adam()], ids=repr)
def test_state_belongs_to_one_network(optimizer: gpubp.Optimizer) -> None:
    net, other = one_weight(), one_weight()
    net.train_step([[1.0]], [[2.0]], optimizer)
    with pytest.raises(gpubp.DataError, match=r"another network.*optimizer\.reset\(\)"):
        other.train_step([[1.0]], [[2.0]], optimizer)
    optimizer.reset()
    other.train_step([[1.0]], [[2.0]], optimizer)
    np.testing.assert_array_equal(net.weights[0], other.weights[0], err_msg="reset() leaves nothing behind")
    assert optimizer.steps == 1


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES, ids=[repr(schedule) for schedule, _ in SCHEDULES])
def test_schedule(schedule: gpubp.Schedule, expected: Any) -> None:
    steps = list(range(10))
    np.testing.assert_allclose([schedule.factor(step, 10) for step in steps], expected, rtol=1e-12)
    backwards = [schedule.factor(step, 10) for step in reversed(steps)]
    np.testing.assert_allclose(backwards[::-1], expected, rtol=1e-12, err_msg="a pure function of the step")
    assert all(0 < schedule.factor(step, total) <= 1 for total in (1, 2, 3, 7, 1000) for step in range(total))


def test_every_schedule_is_tested() -> None:
    own = [m for m in gpubp.Schedule.members.values() if m.__module__.startswith("gpubp")]
    assert {type(schedule) for schedule, _ in SCHEDULES} == set(own)


def test_falling_schedules_end_at_final() -> None:
    for schedule in (gpubp.Linear(0.1, 0.25), gpubp.Cosine(0.1, 0.25), gpubp.Exponential(0.25)):
        assert schedule.factor(1000, 1000) == pytest.approx(0.25)


def draw(initializer: gpubp.Initializer, seed: int = 0) -> Any:
    return initializer.draw(np.random.default_rng(seed), 300, 200)


@pytest.mark.parametrize("initializer", VARIANCES, ids=repr)
def test_variance(initializer: gpubp.Initializer) -> None:
    drawn, variance = draw(initializer), VARIANCES[initializer]
    count = drawn.size
    # Five standard errors of the mean and of the variance, whose own is at most √(2/n) σ² for these two distributions.
    assert drawn.shape == (300, 200)
    assert abs(drawn.mean()) < 5 * sqrt(variance / count)
    assert abs(drawn.var() / variance - 1) < 5 * sqrt(2 / count)
    np.testing.assert_array_equal(drawn, draw(initializer))
    assert not np.array_equal(drawn, draw(initializer, seed=1))


@pytest.mark.parametrize("initializer", UNIFORM, ids=repr)
def test_uniform_is_bounded_and_even(initializer: gpubp.Initializer) -> None:
    drawn, bound = draw(initializer), sqrt(3 * VARIANCES[initializer])
    assert 0.999 * bound < np.abs(drawn).max() <= bound
    quarters = np.histogram(drawn, bins=4, range=(-bound, bound))[0] / drawn.size
    np.testing.assert_allclose(quarters, 0.25, atol=0.01)


@pytest.mark.parametrize("initializer", NORMAL, ids=repr)
def test_normal_has_its_tails(initializer: gpubp.Initializer) -> None:
    beyond = [np.mean(np.abs(draw(initializer)) > k * sqrt(VARIANCES[initializer])) for k in (1, 2, 3)]
    np.testing.assert_allclose(beyond, [0.3173, 0.0455, 0.0027], rtol=0.15)


def test_every_initializer_is_tested() -> None:
    own = {name for name, m in gpubp.Initializer.members.items() if m.__module__.startswith("gpubp")}
    assert {initializer.name for initializer in VARIANCES} | {"zeros"} == own
    assert not draw(gpubp.initializers.Zeros()).any()


def test_the_same_draw_for_both_dtypes() -> None:
    single, double = (gpubp.MLP([30, 20, 10], dtype=t, device="cpu", seed=4) for t in ("float32", "float64"))
    for one, other in zip(single.weights, double.weights, strict=True):
        np.testing.assert_array_equal(one, other.astype("float32"))
    assert not any(bias.any() for bias in double.biases)
    layers = [np.ravel(w)[:10] for w in double.weights]
    assert not np.array_equal(layers[0], layers[1]), "each layer has a stream of its own"


@pytest.mark.parametrize(
    ("activation", "initializer"), [("relu", "he_uniform"), ("tanh", "xavier_uniform"), ("selu", "lecun_normal")]
)
def test_the_activation_picks(activation: str, initializer: str) -> None:
    asked, picked = (gpubp.MLP([30, 20], output=activation, init=i, device="cpu", seed=1) for i in (initializer, None))
    np.testing.assert_array_equal(picked.weights[0], asked.weights[0])
