"""Watching a training: what is found in networks built to be sick, and not found in healthy ones."""

import re
from typing import Any

import numpy as np
import pytest
from watched import DEEP, WATCHED, digits, names, watched

import gpubp
from gpubp.explain.symptoms import LOOKED_FOR

VANISHING, EXPLODING, DEAD, SATURATED = "vanishing gradients", "exploding gradients", "dead units", "saturated units"
TOO_LARGE, TOO_SMALL = "learning rate too large", "learning rate too small"

# What was done to the network, what is found, and what it says of it and of the remedy.
SICK: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "deep sigmoid": (
        dict(sizes=DEEP, activation="sigmoid", optimizer="sgd"),
        VANISHING,
        r"by a factor of [45]\.?\d? a layer on the way down from the output, of [1-9],\d00 in all, in 13 of 13 records",
        r'activation="relu" \(--activation relu\)',
    ),
    "small initial weights": (
        dict(sizes=DEEP, activation="tanh", init=gpubp.Normal(0.01)),
        VANISHING,
        "the deltas shrink by a factor of",
        r"larger initial weights: these multiply a delta's norm by 0\.0\d+ in every layer; leave init out",
    ),
    "small initial weights that soon grow": (
        dict(sizes=DEEP, activation="tanh", init=gpubp.Normal(0.01), epochs=30),
        VANISHING,
        r"in \d+ of 31 records",
        "larger initial weights",
    ),
    "no initial weights": (
        dict(sizes=[64, 32, 32, 10], activation="tanh", init="zeros"),
        VANISHING,
        "nothing of the deltas reaches hidden layer 1, in 13 of 13 records",
        "larger initial weights",
    ),
    "large initial weights": (
        dict(sizes=DEEP, init=gpubp.Normal(1.0)),
        EXPLODING,
        r"grow by a factor of \d\.?\d? a layer on the way down from the output, of [\d,]+ in all, at the start$",
        "smaller initial weights: these multiply a delta's norm by .* leave init out.* clip_norm=1.0",
    ),
    "large initial weights and steps": (
        dict(sizes=DEEP, init=gpubp.Normal(1.0), optimizer="sgd", learning_rate=1e10),
        EXPLODING,
        "at the start, and the loss was no longer finite in the first epoch$",
        "smaller initial weights",
    ),
    "ReLUs that died": (
        dict(learning_rate=0.2, epochs=4),
        DEAD,
        r"\d\d% in hidden layer 2 \(\d+% at the start\)",
        r"learning_rate=0\.\d+ \(--lr 0\.\d+\), about \d+ times smaller; or activation=\"leaky_relu\"",
    ),
    "ReLUs born dead": (dict(init="zeros"), DEAD, r"100% in hidden layer 1 \(100% at the", "fit relu: leave init out"),
    "large inputs": (
        dict(activation="tanh", scale=300.0),
        SATURATED,
        "tanh within 1% of its ends, where its slope is almost 0: 9.% in hidden layer 1 at the start",
        r"x scaled to mean 0 .* about \d\d0 in size",
    ),
    "large weights under tanh": (
        dict(activation="tanh", init=gpubp.Normal(3.0)),
        SATURATED,
        "in hidden layer 1 at the start, .*in hidden layer 2 at the start",
        "fit tanh: leave init out",
    ),
    "saturated by large steps": (
        dict(activation="tanh", learning_rate=0.1, epochs=4),
        SATURATED,
        r"\(0% at the start\)",
        r"learning_rate=0\.\d+ \(--lr.*; or weight_decay=1e-4 \(--weight-decay 1e-4\)",
    ),
    "large steps": (
        dict(activation="tanh", learning_rate=3.0),
        TOO_LARGE,
        r"the loss rose from 2\.\d+ to \d+\.?\d* in epoch \d+; an epoch changed weights by up to \d+ times their norm",
        r"learning_rate=0\.0\d+ \(--lr 0\.0\d+\), about \d+ times smaller; clip_norm=1.0",
    ),
    "huge steps": (
        dict(optimizer="sgd", learning_rate=1e30),
        TOO_LARGE,
        "the loss was no longer finite in the first epoch$",
        "a tenth of the learning rate",
    ),
    "large inputs and steps": (
        dict(scale=1000.0, optimizer="sgd", learning_rate=1e30),
        TOO_LARGE,
        "no longer finite",
        "first x scaled .*; then a tenth of the learning rate",
    ),
    "small steps": (
        dict(learning_rate=1e-6),
        TOO_SMALL,
        r"has come from 2\.\d+ to 2\.\d+; the gradient is still \d+% of the first; no epoch changed",
        r"learning_rate=0\.00\d+ \(--lr 0\.00\d+\), about \d+,?\d00 times larger",
    ),
    "small steps of a schedule": (dict(learning_rate=1e-6, schedule="cosine", dropout=0.2), TOO_SMALL, "", "--lr"),
    "steps that are rounded away": (
        dict(learning_rate=1e-30),
        TOO_SMALL,
        "no weight has changed: the steps",
        r"leave learning_rate \(--lr\) out",
    ),
}


@pytest.mark.parametrize("disease", SICK)
def test_a_sick_network_is_found_out(disease: str) -> None:
    built, name, seen, remedy = SICK[disease]
    watch = watched(**built)
    finding = next(each for each in watch.findings() if each.name == name)
    assert re.search(seen, finding.seen)
    assert re.search(remedy, finding.remedy)
    assert f"{finding.name}: {finding.seen}\n  try {finding.remedy}" in str(watch)
    assert bool(finding.layers) == (name not in (TOO_LARGE, TOO_SMALL))
    assert set(finding.layers) <= set(range(len(watch.layers)))


HEALTHY: dict[str, dict[str, Any]] = {
    "as the command line trains digits": dict(sizes=[64, 256, 128, 10], dropout=0.2, schedule="cosine", epochs=6),
    "the defaults": dict(activation="sigmoid", epochs=20),
    "two sigmoid layers by gradient descent": dict(activation="sigmoid", optimizer="sgd", epochs=20),
    "tanh": dict(activation="tanh"),
    "six ReLU layers": dict(sizes=DEEP),
    "six SELU layers": dict(sizes=DEEP, activation="selu"),
    "six GELU layers": dict(sizes=DEEP, activation="gelu"),
    "no hidden layer": dict(sizes=[64, 10]),
    "converged": dict(epochs=50),
    "converged tanh, sure and so saturated": dict(activation="tanh", learning_rate=0.02, epochs=30),
    "much dropout": dict(dropout=0.5),
    "weight decay": dict(weight_decay=0.01),
    "momentum": dict(optimizer=gpubp.SGD(0.02, momentum=0.9)),
    "full batches": dict(batch_size="full", learning_rate=0.01, epochs=40),
    "a loss that wavers": dict(sizes=DEEP, activation="selu", learning_rate=0.003),
    "one epoch": dict(epochs=1),
    "one-hot by squared error": dict(data=(digits()[0], np.eye(10)[digits()[1]]), output="sigmoid"),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_network_is_not_accused(kind: str) -> None:
    watch = watched(**HEALTHY[kind])
    assert watch.findings() == []
    assert str(watch).endswith(f"watched on 200 rows: nothing wrong; looked for {LOOKED_FOR}")


def test_a_regression_in_noise_is_not_accused(rng: np.random.Generator) -> None:
    """Its loss cannot fall far, and in its last epochs it falls and rises."""
    x = rng.normal(size=(300, 8))
    y = x[:, :1] + rng.normal(size=(300, 1))
    assert names(watched([8, 16, 1], data=(x, y), output="identity", epochs=40)) == []
    assert names(watched([8, 16, 1], data=(x, rng.normal(size=(300, 1))), output="identity", epochs=40)) == []


def test_a_loss_that_jumps() -> None:
    """Again and again, in the second half; the loss of the sample alone may rise since it was not learned from."""
    watch = watched()
    for record in watch.records[1:]:
        record["training_loss"] = record["loss"] = 1.0 + record["epoch"] % 2 / 5
    finding = watch.findings()[0]
    assert finding.name == TOO_LARGE
    assert finding.seen.startswith("the loss jumps up and down: by 0.08 an epoch in the second half, and is 1;")
    for record in watch.records[1:]:
        record["training_loss"] = 1.0
    assert names(watch) == []
    for record in watch.records[1:]:
        record["training_loss"] = record["loss"] = 1.0 + 0.2 * (record["epoch"] == 9)  # a single jump may be chance
    assert names(watch) == []


def test_a_loss_that_has_risen() -> None:
    watch = watched()
    for record in watch.records[1:]:
        record["training_loss"] = record["loss"] = 1.06 * watch.records[0]["loss"]
    assert re.match(r"the loss was 2\.\d+ at the start and is 2\.\d+ at the end", watch.findings()[0].seen)
    for record in watch.records[1:]:
        record["training_loss"] = 1.0
    assert names(watch) == []


def test_a_trained_network_is_not_accused(rng: np.random.Generator) -> None:
    """Its gradients are tiny from the start, its loss can rise to many times its first, its units may be saturated."""
    x, y = digits()
    net = gpubp.MLP([64, 32, 16, 10], "tanh", device="cpu", seed=0)
    watch = gpubp.Diagnosis(x[:WATCHED], y[:WATCHED])
    for rate in (0.003, 0.01, 0.02):
        net.fit(x, y, epochs=20, batch_size=16, learning_rate=rate, callbacks=[watch], verbose=0)
        assert watch.findings() == []
    losses = [record["training_loss"] for record in watch.records[1:]]
    assert max(losses) > 10 * watch.records[0]["loss"]


@pytest.mark.parametrize(
    ("rate", "name"), [(1e-4, TOO_SMALL), (0.1, None), (2 / 9, None), (0.46, TOO_LARGE)], ids=lambda value: str(value)
)
def test_the_textbook_s_single_weight(rate: float, name: str | None) -> None:
    """C = (1.5 w − 0.5)², w = 0.8: a step multiplies the error by 1 − 4.5 r, so it grows from r = 4/9 on."""
    net = gpubp.MLP([1, 1], output="identity", use_bias=False, device="cpu")
    net.set_parameters([[[0.8]]])
    watch = gpubp.Diagnosis([[1.5]], [0.5])
    net.fit([[1.5]], [0.5], epochs=40, optimizer="sgd", learning_rate=rate, callbacks=[watch], verbose=0)
    assert names(watch) == ([name] if name else [])


@pytest.mark.parametrize("disease", ["ReLUs that died", "saturated by large steps", "large steps", "small steps"])
def test_the_rate_it_advises_is_the_cure(disease: str) -> None:
    built = {**SICK[disease][0], "epochs": 12}
    sick = watched(**built)
    rate = float(re.search(r"learning_rate=(\S+) ", sick.findings()[0].remedy)[1])  # type: ignore[index]
    cured = watched(**{**built, "learning_rate": rate})
    assert names(cured) == []
    assert cured.records[-1]["loss"] < 0.3 * cured.baseline


def test_deltas_that_vanish_for_saturation_are_not_a_finding_of_their_own() -> None:
    watch = watched(activation="sigmoid", scale=300.0)
    delta = watch.records[0]["delta"]
    assert delta[0] < 0.01 * delta[-1]
    assert names(watch) == [SATURATED]


def test_a_sum_over_all_rows_is_no_loss_that_rose() -> None:
    x, y = digits()
    net = gpubp.MLP([64, 32, 10], "relu", loss=gpubp.CrossEntropy(reduction="sum"), device="cpu", seed=0)
    watch = gpubp.Diagnosis(x[:WATCHED], y[:WATCHED])
    net.fit(x, y, epochs=10, batch_size=16, callbacks=[watch], verbose=0)
    assert watch.findings() == []
    assert watch.baseline == pytest.approx(WATCHED * np.log(10), rel=0.01)
