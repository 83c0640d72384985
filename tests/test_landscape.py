"""Landscapes: the cost on planes through a network's parameters, and the paths that are drawn on them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import gpubp
from gpubp.errors import DataError, GpubpError, ShapeError
from gpubp.explain import DescentPath, Landscape, landscape
from gpubp.explain.descent import as_vector, cut
from gpubp.explain.plane import of_networks, of_parameters, of_paths, of_random_directions
from gpubp.explain.plots import levels_between

MINIMA = Path(__file__).parent.parent / "examples" / "minima.py"
X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = np.array([0.0, 1.0, 1.0, 0.0])


def make(sizes: list[int] | None = None, seed: int = 0, **settings: Any) -> gpubp.MLP:
    settings = {"activation": "tanh", "output": "sigmoid", "dtype": "float64", "device": "cpu"} | settings
    net = gpubp.MLP(sizes or [2, 3, 1], seed=seed, **settings)
    rng = np.random.default_rng(seed)
    net.set_parameters(*([None if a is None else rng.normal(size=a.shape) for a in b] for b in net.get_parameters()))
    return net


def linear() -> gpubp.MLP:
    """a = w1 x1 + w2 x2 + b1."""
    net = gpubp.MLP([2, 1], output="identity", dtype="float64", device="cpu", seed=0)
    net.set_parameters([[[1.0], [2.0]]], [[0.5]])
    return net


def walk(net: gpubp.MLP, *places: list[float]) -> DescentPath:
    """A path through these values of the parameters of `linear`; the network comes back to where it was."""
    path, here = DescentPath(), net.get_parameters()
    for w1, w2, b1 in places:
        net.set_parameters([[[w1], [w2]]], [[b1]])
        path.record(net)
    net.set_parameters(*here)
    return path


def test_two_weights_span_their_own_values() -> None:
    found = landscape(linear(), [[1.5, 2.0]], [0.5], "w1", "w2", points=5, span=((-1.0, 1.0), 0.5))
    np.testing.assert_allclose(found.first, [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(found.second, [1.5, 1.75, 2, 2.25, 2.5])
    expected = (1.5 * found.first[None, :] + 2 * found.second[:, None] + 0.5 - 0.5) ** 2
    np.testing.assert_allclose(found.costs, expected, rtol=1e-12)
    assert found.minimum == pytest.approx((-1.0, 1.5, 2.25))
    assert found.centre == (1.0, 2.0)
    assert found.labels == ("w1 = W[0][0,0]", "w2 = W[0][1,0]")


@pytest.mark.parametrize(("first", "second"), [(None, None), ("w4", "b4"), ("W[1][0,0]", "b[0][2]")], ids=str)
def test_the_centre_costs_what_the_network_does_and_the_network_stays(first: Any, second: Any) -> None:
    net = make()
    before, cost = as_vector(net), net.evaluate(X, Y)["loss"]
    found = landscape(net, X, Y, first, second, span=1.0, points=3)
    assert found.cost == cost
    assert found.costs[1, 1] == pytest.approx(cost, rel=1e-12)
    np.testing.assert_array_equal(as_vector(net), before)


def test_each_point_is_the_cost_of_a_network_with_these_two_parameters() -> None:
    net = make()
    found = landscape(net, X, Y, "w8", "b3", points=2)
    weights, biases = net.get_parameters()
    weights[1][1, 0], biases[0][2] = found.first[0], found.second[1]
    net.set_parameters(weights, biases)
    assert found.costs[1, 0] == pytest.approx(net.evaluate(X, Y)["loss"], rel=1e-12)


def test_random_directions_have_the_norms_of_the_filters() -> None:
    masks = [np.array([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 1, 1]]), None]
    net = make([3, 4, 2], output="softmax", masks=masks, use_bias=[True, False])
    plane, (weights, biases) = of_random_directions(net, 7), net.get_parameters()
    for direction in plane.basis:
        first, second, bias = cut(direction, net)
        for moved, own in ((first, weights[0]), (second, weights[1]), (bias, biases[0])):
            np.testing.assert_allclose(np.linalg.norm(moved, axis=0), np.linalg.norm(own, axis=0), rtol=1e-12)
        np.testing.assert_array_equal(first[masks[0] == 0], 0)
    assert abs(plane.basis[0] @ plane.basis[1]) < 1e-12
    np.testing.assert_array_equal(of_random_directions(net, 7).basis, plane.basis)
    assert not np.allclose(of_random_directions(net, 8).basis, plane.basis)


def test_a_network_that_computes_the_same_at_another_scale_has_the_same_landscape() -> None:
    net = make([2, 4, 1], activation="relu")
    (w1, w2), (b1, b2) = net.get_parameters()
    scaled = make([2, 4, 1], activation="relu")
    scaled.set_parameters([10 * w1, w2 / 10], [10 * b1, b2])
    np.testing.assert_allclose(
        landscape(net, X, Y, points=5).costs, landscape(scaled, X, Y, points=5).costs, rtol=1e-10
    )


def test_the_plane_through_three_networks_holds_them() -> None:
    nets = [make(seed=seed) for seed in range(3)]
    found = landscape(nets[0], X, Y, nets[1], nets[2], points=3)
    places = np.array([found.marks[mark] for mark in "123"])
    np.testing.assert_allclose(places[:, 2], [net.evaluate(X, Y)["loss"] for net in nets], rtol=1e-12)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        apart = np.linalg.norm(as_vector(nets[i]) - as_vector(nets[j]))
        assert np.linalg.norm(places[i, :2] - places[j, :2]) == pytest.approx(apart, rel=1e-12)
    for low, high, column in ((found.first[0], found.first[-1], 0), (found.second[0], found.second[-1], 1)):
        assert low < places[:, column].min() < places[:, column].max() < high


@pytest.mark.parametrize(("every", "records"), [("epoch", 4), ("step", 7)])
def test_a_path_begins_at_the_start_and_ends_where_the_network_is(every: Any, records: int) -> None:
    net, path = make(), DescentPath(every)
    start = as_vector(net)
    net.fit(X, Y, epochs=3, batch_size=2, callbacks=[path], verbose=0)
    assert path.points.shape == (records, net.parameter_count)
    np.testing.assert_array_equal(path.points[0], start)
    np.testing.assert_array_equal(path.points[-1], as_vector(net))
    net.fit(X, Y, epochs=1, batch_size=4, callbacks=[path], verbose=0)
    assert len(path.points) == records + 1  # a second fit goes on from the last record


def test_a_path_ends_where_early_stopping_went_back_to() -> None:
    net, path = make(), DescentPath()
    settings: Any = {"optimizer": "sgd", "learning_rate": 50.0, "early_stopping": 3}
    history = net.fit(X, Y, epochs=20, batch_size=1, callbacks=[path], verbose=0, **settings)
    assert history.best_epoch is not None
    assert history.best_epoch < len(history)
    np.testing.assert_array_equal(path.points[-1], as_vector(net))


def test_the_axes_of_two_weights_show_the_path_in_their_values() -> None:
    net = linear()
    path = walk(net, [9.0, -4.0, 0.5], [5.0, -1.0, 0.5], [1.0, 2.0, 0.5])
    found = landscape(net, [[1.5, 2.0]], [0.5], "w2", "w1", points=2, path=path)
    np.testing.assert_array_equal(found.paths[""], [[-4, 9], [-1, 5], [2, 1]])
    assert found.first[0] < -4 < 2 < found.first[-1]
    assert found.second[0] < 1 < 9 < found.second[-1]
    assert "projected" not in found.caption


def test_the_caption_says_what_a_projection_leaves_out() -> None:
    net = linear()
    path = walk(net, [4.0, 2.0, 4.5], [1.0, 2.0, 0.5])  # 3 along w1, and 4 along b1: four fifths of a way of 5
    assert of_parameters(net, ("w1", "w2")).outside({"": path.points}) == pytest.approx(0.8)
    found = landscape(net, [[1.5, 2.0]], [0.5], "w1", "w2", points=2, path={"one": path})
    assert "80% of their distance from the network is in the other parameters (1)." in found.caption


def test_oblique_directions_project_at_right_angles(rng: np.random.Generator) -> None:
    net = make([1, 2, 1])  # its filters of one weight make the two directions oblique
    plane = of_random_directions(net, 0)
    assert abs(plane.basis[0] @ plane.basis[1]) > 0.1
    thetas = rng.normal(size=(5, net.parameter_count))
    beside = thetas - [plane.at(*place) for place in plane.project(thetas)]
    np.testing.assert_allclose(beside @ plane.basis.T, 0, atol=1e-12)


def test_the_components_of_a_path_hold_all_of_one_in_a_plane() -> None:
    net = linear()
    path = walk(net, [4.0, 3.0, 2.5], [2.0, 2.0, 1.5], [3.0, 4.0, 1.0], [1.0, 2.0, 0.5])
    places = {"": path.points[[0, 1, 3]]}  # with the network's own place three points, and so in a plane
    assert of_paths(net, places).outside(places) < 1e-12
    plane = of_paths(net, {"": path.points})
    assert 0.01 < plane.outside({"": path.points}) < 0.5
    shares = [int(share) for share in re.findall(r"\((\d+)%\)", " ".join(plane.labels))]
    assert shares[0] > shares[1] > 0
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-12)


def test_costs_that_are_not_finite_are_holes(tmp_path: Path) -> None:
    net = make([2, 1], output="exp", loss="squared_error")
    path = DescentPath()
    path.record(net)
    found = landscape(net, X, Y, "w1", "w2", span=900.0, points=9, path={"a": path})
    assert not np.isfinite(found.costs).all()
    assert np.isfinite(found.minimum).all()
    found.plot(tmp_path / "holes.png")
    assert np.ptp(pixels(tmp_path / "holes.png")) > 0.5
    far = landscape(make(dtype="float32"), X, Y, "w1", "b4", span=1e39, points=3)  # which float32 does not reach
    assert np.isnan(far.costs[0, 0])
    with pytest.raises(DataError, match=r"nowhere finite.*smaller span"):
        Landscape(far.first, far.second, far.costs * np.nan, far.labels, far.centre, far.cost).plot(tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_levels_are_powers_where_costs_span_them_upwards() -> None:
    assert levels_between(np.array([0.0, 1.0, 1.5])) == (0.0, 1.5, False)  # a minimum at 0 has a bowl around it
    assert levels_between(np.array([1e-9, 1e-3, 1.0, 10.0, 1e30])) == (1e-3, 1e3, True)
    assert levels_between(np.array([-1.0, 0.1, 0.1, 50.0])) == (-1.0, 50.0, False)


@pytest.mark.parametrize(
    "costs",
    [np.full((3, 3), 0.5), np.logspace(-9, 30, 9).reshape(3, 3), -np.eye(3)],
    ids=["flat", "steep", "negative"],
)
def test_flat_steep_and_negative_costs_are_drawn(costs: Any, tmp_path: Path) -> None:
    axis = np.linspace(0, 1, 3)
    Landscape(axis, axis, costs, ("a", "b"), (0.5, 0.5), 0.5).plot(tmp_path / "drawn.png")
    assert np.ptp(pixels(tmp_path / "drawn.png")) > 0.5


def test_pictures_are_what_their_suffix_says(tmp_path: Path) -> None:
    nets, path = [make(seed=seed) for seed in range(3)], DescentPath()
    nets[0].fit(X, Y, epochs=3, callbacks=[path], verbose=0)
    found = landscape(nets[0], X, Y, nets[1], nets[2], points=5, path={"$\\a$": path, "again": path})
    found.plot(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape == (750, 900, 3)
    found.plot(str(tmp_path / "a.SVG"))
    drawing = ElementTree.parse(tmp_path / "a.SVG").getroot()
    assert drawing.tag.endswith("svg")
    assert len(drawing.findall(".//{*}path")) > 50
    with pytest.raises(DataError, match=r"must end in .png or .svg, got .*a.pdf"):
        found.plot(tmp_path / "a.pdf")


def test_without_matplotlib_the_line_that_installs_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GpubpError, match=r"pip install matplotlib"):
        landscape(linear(), X, Y, "w1", "w2", points=2).plot(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def other_path() -> DescentPath:
    path = DescentPath()
    path.record(make([2, 2, 1]))
    return path


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"first": "w10", "second": "w1"}, DataError, "w10"),
        ({"first": "w1", "second": "W[0][0,0]"}, DataError, "the same parameter"),
        ({"first": "w1"}, DataError, "first and second must be two names"),
        ({"first": "w2", "second": "w1"}, DataError, "w2 is masked: it is 0 and stays 0"),
        ({"points": 1}, DataError, "points must be at least 2, got 1"),
        ({"points": 2.5}, DataError, "points must be a positive integer"),
        ({"span": 0}, DataError, "span must be a number greater than 0, got 0"),
        ({"span": (1, 1)}, DataError, r"span must go from low to high, got \(1, 1\)"),
        ({"span": (1, 2, 3)}, DataError, r"span must be a positive number or a pair \(low, high\)"),
        ({"span": ((0, 1),)}, DataError, "span must be one for both axes"),
        ({"span": float("nan")}, DataError, "span must be a number greater than 0"),
        ({"path": [1, 2]}, DataError, "path must be a DescentPath or a dict"),
        ({"path": {1: DescentPath()}}, DataError, "label of a path must be a text, got 1"),
        ({"path": DescentPath()}, DataError, "the path is empty"),
        ({"path": other_path()}, ShapeError, r"recorded on a network with parameters of shapes \[\(2, 2\)"),
        ({"directions": "path"}, DataError, 'directions="path" needs a path'),
        ({"directions": "pca"}, DataError, "directions must be"),
        ({"seed": -1}, DataError, "seed must be"),
        ({"first": make(), "second": make([2, 2, 1])}, ShapeError, "three networks of the same shapes"),
        ({"first": make(), "second": make()}, DataError, "span no plane"),
    ],
    ids=str,
)
def test_bad_input_is_named(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    net = make(masks=[np.array([[1, 0, 1], [1, 1, 1]]), None])
    with pytest.raises(error, match=message):
        landscape(net, X, Y, **settings)


def test_planes_that_are_none_are_refused() -> None:
    net = gpubp.MLP([1, 1], output="identity", use_bias=False, device="cpu", seed=0)
    with pytest.raises(DataError, match="span no plane"):
        of_random_directions(net, 0)
    nets = [linear() for _ in range(3)]
    for factor, each in enumerate(nets):
        each.set_parameters([[[1.0 + factor], [2.0 + factor]]])
    with pytest.raises(DataError, match="span no plane"):
        of_networks(nets[0], (nets[1], nets[2]))
    straight = walk(nets[0], [3.0, 4.0, 0.5], [2.0, 3.0, 0.5])
    with pytest.raises(DataError, match="the path has no second direction"):
        of_paths(nets[0], {"": straight.points})
    away = walk(nets[0], [3.0, 4.0, 0.5])
    away._points[0][:2] = [1e308, -1e308]
    with pytest.raises(DataError, match="leaves for infinity; say how far to look by span"):
        landscape(nets[0], X, Y, "w1", "w2", path=away)
    with pytest.raises(DataError, match='every must be "epoch" or "step"'):
        DescentPath("batch")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="recorded on a network"):
        straight.record(make())


def test_a_path_that_diverged_leaves_a_gap(tmp_path: Path) -> None:
    net = linear()
    path = walk(net, [4.0, 2.0, 1.5], [3.0, 1.0, 0.5], [2.0, 5.0, 0.5], [1.0, 2.0, 0.5])
    path._points[1][:] = np.inf
    found = landscape(net, [[1.5, 2.0]], [0.5], "w1", "w2", points=3, path=path)
    assert np.isfinite(found.paths[""]).all(axis=1).tolist() == [True, False, True, True]
    assert found.first[-1] > 4
    found.plot(tmp_path / "gap.svg")
    around = landscape(net, [[1.5, 2.0]], [0.5], points=3, path=path, directions="path", span=1.0)
    assert np.isfinite(around.paths[""][[0, 2, 3]]).all()
    assert re.search(r"Paths are projected: \d+% of", around.caption) is None  # two places beside the network's own


def test_a_gpu_has_the_same_landscape(cuda: str) -> None:
    net = make()
    expected = landscape(net, X, Y, points=5)
    there = net.copy().to(cuda)
    np.testing.assert_allclose(landscape(there, X, Y, points=5).costs, expected.costs, rtol=1e-10)


@pytest.mark.check
def test_the_example_ends_in_several_minima_and_draws_them(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(MINIMA)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    neuron, xor = (re.findall(r"^ +\d+ +([\d.]+) .*? (a \w+ minimum|no minimum)", part, re.M) for part in halves(run))
    assert {cost for cost, _ in neuron} == {"0.000000", "0.456996", "0.485196"}
    assert {cost for cost, _ in xor} == {"0.000000", "0.125000", "0.166667", "0.250000"}
    assert len(neuron) == 8
    assert len(xor) == 10
    for cost, kind in neuron + xor:
        assert (kind == "a global minimum") == (cost == "0.000000")
    assert {kind for _, kind in neuron} == {"a global minimum", "a local minimum"}
    assert np.ptp(pixels(tmp_path / "minima.png")) > 0.5
    assert np.ptp(pixels(tmp_path / "minima-xor.png")) > 0.5


def halves(run: Any) -> list[str]:
    return run.stdout.strip().split("\n\n")


def pixels(path: Path) -> Any:
    """(height, width, 3), from 0 to 1."""
    from matplotlib.image import imread

    return imread(path)[..., :3]
