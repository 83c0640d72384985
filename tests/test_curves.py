"""One weight's curves: a(w), C(w), the tangent, and the steps of a descent on them."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import gpubp
from gpubp.errors import DataError, ShapeError
from gpubp.explain import Curves, DescentPath, curves
from gpubp.explain.descent import as_vector


def article(w: float = 0.8) -> gpubp.MLP:
    """a = i w and C = (a − y)² of the article, with i = 1.5 and y = 0.5."""
    net = gpubp.MLP([1, 1], output="identity", use_bias=False, dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[w]]])
    return net


I, Y = [[1.5]], [0.5]  # noqa: E741 — the article's name


def descent(rate: float, epochs: int = 10) -> DescentPath:
    path = DescentPath()
    settings: dict[str, Any] = {"optimizer": "sgd", "learning_rate": rate, "verbose": 0}
    article().fit(I, Y, epochs=epochs, callbacks=[path], **settings)
    return path


def deep(**settings: Any) -> tuple[gpubp.MLP, Any, Any]:
    settings = {"dtype": "float64", "device": "cpu"} | settings
    net = gpubp.MLP([3, 4, 2], "tanh", "softmax", seed=1, **settings)
    rng = np.random.default_rng(1)
    return net, rng.normal(size=(12, 3)), rng.integers(0, 2, 12)


def test_the_curves_of_the_article() -> None:
    scan = curves(article(), I, Y, span=(-1, 2), points=31)
    w = np.linspace(-1, 2, 31)
    np.testing.assert_array_equal(scan.values, w)
    np.testing.assert_allclose(scan.outputs, 1.5 * w[:, None, None], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scan.costs, (1.5 * w - 0.5) ** 2, rtol=1e-12, atol=1e-15)
    assert (scan.name, scan.value, scan.others) == ("w1", 0.8, 0)
    assert scan.cost == pytest.approx(0.49, rel=1e-12)
    assert scan.slope == pytest.approx(2.1, rel=1e-12)


def test_a_path_lies_on_the_curve_where_nothing_else_moves() -> None:
    scan = curves(article(), I, Y, path=descent(0.1))
    k = np.arange(11)
    expected = np.column_stack([1 / 3 + 7 / 15 * 0.55**k, 0.49 * (121 / 400) ** k])
    np.testing.assert_allclose(scan.paths[""], expected, rtol=1e-12, atol=1e-15)
    assert scan.values[0] < 1 / 3 < 0.8 < scan.values[-1]


def test_a_path_costs_what_its_network_did() -> None:
    net, x, y = deep()
    path, costs = DescentPath(), [net.evaluate(x, y)["loss"]]
    net.fit(x, y, epochs=4, callbacks=[path, lambda net, _: costs.append(net.evaluate(x, y)["loss"])], verbose=0)
    scan = curves(net, x, y, "w14", path={"adam": path})
    np.testing.assert_allclose(scan.paths["adam"][:, 1], costs, rtol=1e-12)
    np.testing.assert_array_equal(scan.paths["adam"][:, 0], path.points[:, 13])


@pytest.mark.parametrize(("name", "kind", "layer", "index"), [("w14", 0, 1, (0, 1)), ("b[0][2]", 1, 0, (2,))])
def test_any_parameter_is_scanned_alone_and_the_network_stays(name: str, kind: int, layer: int, index: Any) -> None:
    net, x, y = deep()
    before = as_vector(net)
    scan = curves(net, x, y, name, span=1e-5, points=3)
    np.testing.assert_array_equal(as_vector(net), before)
    assert scan.value == net.get_parameters()[kind][layer][index]
    assert scan.slope == pytest.approx((scan.costs[2] - scan.costs[0]) / 2e-5, rel=1e-6)
    np.testing.assert_allclose(scan.outputs[1], net.forward(x)[:8], rtol=1e-12)
    parameters = net.get_parameters()
    parameters[kind][layer][index] = scan.values[2]
    net.set_parameters(*parameters)
    np.testing.assert_allclose(scan.outputs[2], net.forward(x)[:8], rtol=1e-12)
    assert scan.costs[2] == pytest.approx(net.evaluate(x, y)["loss"], rel=1e-12)


def test_the_panels_are_drawn(tmp_path: Path) -> None:
    net, x, y = deep()
    long = DescentPath()
    net.fit(x, y, epochs=50, callbacks=[long], verbose=0)
    curves(net, x, y, "w5", points=9, path=long).plot(tmp_path / "a.svg")
    assert gids(tmp_path / "a.svg") == 2
    rates = {f"r = {rate:.3g}": descent(rate) for rate in (0.1, 4 / 9)}
    rates[r"$\to\infty"] = descent(1e3, epochs=40)  # to 1e146, further than matplotlib can count
    scan = curves(article(), I, Y, span=(-0.6, 1.4), points=9, path=rates)
    scan.plot_paths(tmp_path / "b.svg")
    assert gids(tmp_path / "b.svg") == 3
    with pytest.raises(DataError, match="there is no path to draw"):
        curves(article(), I, Y, points=2).plot_paths(tmp_path / "c.svg")
    with pytest.raises(DataError, match=r"must end in .png or .svg"):
        scan.plot(tmp_path / "c.jpeg")


def test_a_curve_that_is_not_finite_everywhere_is_drawn_where_it_is(tmp_path: Path) -> None:
    net = gpubp.MLP([1, 1], output="exp", loss="squared_error", use_bias=False, dtype="float64", device="cpu", seed=0)
    scan = curves(net, I, Y, span=900.0, points=9)
    assert not np.isfinite(scan.costs).all()
    scan.plot(tmp_path / "a.svg")
    nowhere = Curves("w1", scan.values, scan.outputs, scan.costs * np.nan, 0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="nowhere finite on this range of w1"):
        nowhere.plot(tmp_path / "b.svg")
    assert not (tmp_path / "b.svg").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "w21"}, DataError, "w21"),
        ({"name": 3}, DataError, "3"),
        ({"name": "w2"}, DataError, "w2 is masked"),
        ({"points": 0}, DataError, "points must be a positive integer"),
        ({"span": -1.0}, DataError, "span must be a number greater than 0, got -1.0"),
        ({"span": (0.0, None)}, DataError, "span"),
        ({"span": (0.0, float("inf"))}, DataError, "span's ends must be a number"),
        ({"path": "w1"}, DataError, "path must be a DescentPath"),
        ({"path": descent(0.1, 1)}, ShapeError, "recorded on a network"),
    ],
    ids=str,
)
def test_bad_input_is_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    net, x, y = deep(masks=[np.array([[1, 0, 1, 1]] * 3), None])
    with pytest.raises(error, match=message):
        curves(net, x, y, **settings)


def test_a_gpu_has_the_same_curves(cuda: str) -> None:
    net, x, y = deep()
    expected, found = (curves(each, x, y, "w5", points=5) for each in (net, net.copy().to(cuda)))
    np.testing.assert_allclose(found.costs, expected.costs, rtol=1e-10)
    np.testing.assert_allclose(found.outputs, expected.outputs, rtol=1e-10)
    assert found.slope == pytest.approx(expected.slope, rel=1e-10)


def gids(path: Path) -> int:
    """How many panels an SVG by matplotlib has."""
    groups = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}g")
    return sum((group.get("id") or "").startswith("axes_") for group in groups)
