"""Mistakes in a user's own kernels, activations and losses are found where they are made, with the remedy."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.kernel import KERNELS


@pytest.fixture(autouse=True)
def registries_restored() -> Iterator[None]:
    tables = [KERNELS, gpubp.Activation.members, gpubp.Loss.members]
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


def forward(signature: str = "z, b -> y") -> Any:
    @gpubp.elementwise(signature)
    def own_forward(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b, out=z if "-> z" in signature else y)
        y[...] = xp.sin(z if "-> z" in signature else y)

    return own_forward


def delta(saved: str = "y") -> Any:
    if saved == "y":

        @gpubp.elementwise("dy, y -> dz")
        def own_delta_y(xp: Any, dy: Any, y: Any, dz: Any) -> None:
            xp.multiply(dy, 1 - y * y, out=dz)

        return own_delta_y

    @gpubp.elementwise("dy, z -> dz")
    def own_delta_z(xp: Any, dy: Any, z: Any, dz: Any) -> None:
        xp.multiply(dy, xp.cos(z), out=dz)

    return own_delta_z


def member(family: type, name: str, **attributes: Any) -> type:
    return type(name, (family,), {"__module__": __name__, **attributes})


def returns() -> Any:
    @gpubp.elementwise("z, b -> y")
    def own_returns(xp: Any, z: Any, b: Any, y: Any) -> Any:
        return xp.sin(z + b)

    return own_returns


def rebinds() -> Any:
    @gpubp.elementwise("z, b -> y")
    def own_rebinds(xp: Any, z: Any, b: Any, y: Any) -> None:
        y = xp.sin(z + b)  # noqa: F841 - the mistake

    return own_rebinds


def swapped() -> Any:
    @gpubp.elementwise("z, b -> y")
    def own_swapped(xp: Any, y: Any, z: Any, b: Any) -> None: ...

    return own_swapped


def flat_loss() -> Any:
    @gpubp.rowwise("o[], t[], w -> do[], loss")
    def own_loss(xp: Any, o: Any, t: Any, w: Any, do: Any, loss: Any) -> None:
        loss[...] = (o - t).sum(axis=1)

    return own_loss


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "saves forgotten": (
        lambda: member(gpubp.Activation, "Own", forward=forward("z, b -> z, y"), delta=delta("z")),
        'Own.forward must be .*saves = "z"',
    ),
    "delta of z where y is saved": (
        lambda: member(gpubp.Activation, "Own", forward=forward(), delta=delta("z")),
        'Own.delta must be .*"dy, y -> dz"',
    ),
    "no delta": (lambda: member(gpubp.Activation, "Own", forward=forward()), "Own.delta must be a kernel"),
    "no forward": (lambda: member(gpubp.Activation, "Own", delta=delta()), "Own.forward must be a kernel"),
    "a plain function": (
        lambda: member(gpubp.Activation, "Own", forward=np.sin, delta=delta()),
        "Own.forward must be a kernel",
    ),
    "a value returned": (
        lambda: member(gpubp.Activation, "Own", forward=returns(), delta=delta()),
        "own_returns.* returns a value; it must write",
    ),
    "an output rebound": (
        lambda: member(gpubp.Activation, "Own", forward=rebinds(), delta=delta()),
        "own_rebinds.* does not write 'y'",
    ),
    "arguments in another order": (swapped, r"own_swapped.* its body must take \(xp, z, b, y\)"),
    "no signature": (lambda: gpubp.elementwise(lambda xp, z, b, y: None), "declared with its signature"),
    "a loss without a kernel": (lambda: member(gpubp.Loss, "Own"), "Own.kernel must be a kernel"),
    "a loss of the wrong shape": (
        lambda: member(gpubp.Loss, "Own", kernel=flat_loss()),
        "own_loss.* fails .*broadcast",
    ),
    "the name of a built-in": (
        lambda: member(gpubp.Activation, "Relu", forward=forward(), delta=delta()),
        "'relu' is built in",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str) -> None:
    make, message = MISTAKES[mistake]
    members = dict(gpubp.Activation.members)
    with pytest.raises(gpubp.DataError, match=message):
        make()
    assert gpubp.Activation.members == members


def test_a_right_one_may_be_defined_twice() -> None:
    for _ in range(2):
        member(gpubp.Activation, "Own", forward=forward("z, b -> z, y"), delta=delta("z"), saves="z", analytic=True)
    net = gpubp.MLP([2, 3, 2], "own", dtype="float64", seed=0)
    assert gpubp.check_gradients(net, [[0.3, -0.7]], [1])


def test_a_failed_check_is_false_and_says_where_to_look() -> None:
    net = gpubp.MLP([3, 4, 4, 2], "tanh", dtype="float64", seed=0)
    x, y = np.random.default_rng(0).normal(size=(4, 3)), [0, 1, 1, 0]
    traced = net.backprop(x, y)
    for factor, hint in ((-1.0, "sign is wrong"), (4.0, "4 times too large")):
        wrong = [traced.weight_grads[0], factor * traced.weight_grads[1], traced.weight_grads[2]]
        report = gpubp.check_gradients(net, x, y, (wrong, traced.bias_grads))
        assert not report
        assert report.layer == 1
        assert "wrong from layer 1" in str(report)
        assert hint in str(report)
    right = gpubp.check_gradients(net, x, y)
    assert right
    assert right.layer is None
