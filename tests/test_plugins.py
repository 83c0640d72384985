"""A user's own activation and loss: declared as the documentation says, checked, trained, saved and loaded."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.kernel import KERNELS

X, Y = np.random.default_rng(1).normal(size=(9, 3)), np.random.default_rng(2).normal(size=(9, 2))


@pytest.fixture(scope="module")
def own() -> Iterator[SimpleNamespace]:
    """Defined here and not at the top, so that other tests' matrices do not meet them."""
    before = {family: dict(family.members) for family in (gpubp.Activation, gpubp.Loss)}
    kernels = dict(KERNELS)

    @gpubp.elementwise("z, b -> z, y")
    def bias_sine(xp: Any, z: Any, b: Any, y: Any) -> None:
        xp.add(z, b, out=z)
        xp.sin(z, out=y)

    @gpubp.elementwise("dy, z -> dz", scratch=1)
    def sine_delta(xp: Any, dy: Any, z: Any, dz: Any, s: Any) -> None:
        xp.cos(z, out=s)
        xp.multiply(dy, s, out=dz)

    class Sine(gpubp.Activation):
        forward, delta, saves, analytic = bias_sine, sine_delta, "z", True

    @gpubp.elementwise("z, b, k -> y")
    def bias_power(xp: Any, z: Any, b: Any, k: float, y: Any) -> None:
        xp.add(z, b, out=y)
        xp.multiply(y, k, out=y)
        xp.exp(y, out=y)

    @gpubp.elementwise("dy, y, k -> dz")
    def power_delta(xp: Any, dy: Any, y: Any, k: float, dz: Any) -> None:
        xp.multiply(dy, y, out=dz)
        xp.multiply(dz, k, out=dz)

    class PowerOfE(gpubp.Activation):
        name = "power"
        forward, delta, analytic = bias_power, power_delta, True

        def __init__(self, k: float = 0.5) -> None:
            self.k = k

        @property
        def parameters(self) -> tuple[float, ...]:
            return (self.k,)

    @gpubp.rowwise("o[], t[], w -> do[], loss", scratch=1)
    def log_cosh(xp: Any, o: Any, t: Any, w: Any, do: Any, loss: Any, s: Any) -> None:
        xp.subtract(o, t, out=do)
        xp.cosh(do, out=s)
        xp.log(s, out=s)
        xp.sum(s, axis=1, keepdims=True, out=loss)
        xp.tanh(do, out=do)
        xp.multiply(do, w, out=do)

    class LogCosh(gpubp.Loss):
        kernel, analytic = log_cosh, True

    @gpubp.elementwise("dy, y -> dz")
    def bad_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None:
        xp.multiply(dy, 2, out=dz)

    class Wrong(gpubp.Activation):
        forward, delta, analytic = gpubp.Exp.forward, bad_delta, True

    yield SimpleNamespace(Sine=Sine, PowerOfE=PowerOfE, LogCosh=LogCosh, Wrong=Wrong)
    for family, members in before.items():
        family.members.clear()
        family.members.update(members)
    KERNELS.clear()
    KERNELS.update(kernels)


def network(own: SimpleNamespace, by: str, dtype: str = "float64") -> gpubp.MLP:
    hidden = ["sine", "power"] if by == "name" else [own.Sine(), own.PowerOfE(0.25)]
    loss = "log_cosh" if by == "name" else own.LogCosh(reduction="sum")
    return gpubp.MLP([3, 5, 4, 2], hidden, "identity", loss, dtype=dtype, device="cpu", seed=6)


@pytest.mark.parametrize("by", ["name", "object"])
def test_gradients(own: SimpleNamespace, by: str) -> None:
    net = network(own, by)
    report = gpubp.check_gradients(net, X, Y)
    assert report.ok, str(report)
    assert report.method == "complex step"
    result = net.backprop(X, Y)
    np.testing.assert_allclose(result.activations[1], np.sin(result.zs[0]))
    np.testing.assert_allclose(result.activations[2], np.exp(net.activations[1].k * result.zs[1]))
    np.testing.assert_allclose(result.sample_losses, np.log(np.cosh(result.outputs - Y)).sum(axis=1))
    assert result.loss == pytest.approx((np.mean if by == "name" else np.sum)(result.sample_losses))


def test_a_wrong_delta_is_found(own: SimpleNamespace) -> None:
    net = gpubp.MLP([3, 4, 2], own.Wrong(), "identity", dtype="float64", device="cpu", seed=0)
    report = gpubp.check_gradients(net, X, Y)
    assert not report.ok
    assert "FAIL" in str(report)
    assert report.where.startswith(("weights[0]", "biases[0]")), "the layer with the wrong delta"


@pytest.mark.parametrize("by", ["name", "object"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trains_saves_and_loads(own: SimpleNamespace, by: str, dtype: str, tmp_path: Path) -> None:
    net = network(own, by, dtype)
    history = net.fit(X, Y, epochs=30, batch_size=4, optimizer="adam", learning_rate=0.02, verbose=0)
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    net.save(tmp_path / "own.safetensors")
    loaded = gpubp.load(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(loaded.forward(X), net.forward(X))
    assert loaded.activations[1].k == (0.5 if by == "name" else 0.25)
    assert loaded.loss.reduction == ("mean" if by == "name" else "sum")


def test_a_file_whose_class_is_gone_is_refused(own: SimpleNamespace, tmp_path: Path) -> None:
    network(own, "object").save(tmp_path / "own.safetensors")
    kept = gpubp.Activation.members.pop("sine")
    try:
        with pytest.raises(gpubp.ModelFileError, match=r"'sine'.*import its class"):
            gpubp.load(tmp_path / "own.safetensors")
    finally:
        gpubp.Activation.members["sine"] = kept


def test_two_kernels_of_one_name_are_refused(own: SimpleNamespace) -> None:
    with pytest.raises(gpubp.DataError, match="'tanh_delta' is declared twice"):

        @gpubp.elementwise("dy, y -> dz")
        def tanh_delta(xp: Any, dy: Any, y: Any, dz: Any) -> None: ...
