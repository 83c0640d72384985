"""Pictures of networks: what is drawn of which network, the paths of an error, valid files or none."""

import builtins
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.colors as colors
import numpy as np
import pytest
from matplotlib.image import imread
from worked import EXAMPLES, build, inputs, targets

import gpubp
from gpubp.explain.figures import new_figure, save
from gpubp.explain.picture import draw
from gpubp.explain.places import END, drawn_units, free_places

Figure = Any


def step(name: str) -> gpubp.Trace:
    example = EXAMPLES[name]
    return gpubp.trace(build(example), inputs(example), targets(example), example.get("learning_rate", 0.1))


def wide() -> gpubp.Trace:
    net = gpubp.MLP([64, 32, 10], device="cpu", seed=0)
    return gpubp.trace(net, np.random.default_rng(0).random((3, 64)), [1, 2, 3], 0.1)


def texts(figure: Figure) -> list[str]:
    """All that is written, as plain letters."""
    found = [text.get_text() for axes in figure.axes for text in axes.texts] + [
        text.get_text() for text in figure.texts
    ]
    return [re.sub(r"[${}_\\]|partial ", "", text) for text in found]


def arrows(figure: Figure) -> list[Any]:
    return [text for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]


def circles(figure: Figure) -> int:
    return len(figure.axes[0].patches)


def lines(figure: Figure) -> list[Any]:
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]


def test_every_unit_connection_and_bias_of_a_small_network() -> None:
    figure = draw(step("hill"))
    told = texts(figure)
    assert circles(figure) == 6
    assert len(lines(figure)) == 8
    for text in ("x1", "h2", "o1", "0.4134", "0.7123", "w1 = 0.3", "w8 = -0.1", "b4 = 0.35", "target 0.2", "2 inputs"):
        assert text in told, text
    assert "2-2-2 before the step: C = 0.19375" in told
    assert len(arrows(figure)) == 0


def test_colour_and_width_tell_the_weight() -> None:
    drawn = {round(line.get_linewidth(), 6): colors.to_rgb(line.get_color()) for line in lines(draw(step("hill")))}
    widest, (red, _, blue) = max(drawn), drawn[max(drawn)]
    assert widest == 3.5, "w5 = 0.7, the largest"
    assert blue > red, "it is above 0"
    weights = sorted(abs(w) for layer in EXAMPLES["hill"]["weights"] for row in layer for w in row)
    np.testing.assert_allclose(sorted(drawn), sorted({0.5 + 3 * w / weights[-1] for w in weights}), rtol=1e-6)
    red, _, blue = drawn[round(0.5 + 3 * 0.4 / 0.7, 6)]
    assert red > blue, "w3 = -0.4 is below 0"


def test_masked_connections_are_absent() -> None:
    figure = draw(step("yehoshua-sparse"))
    masks = EXAMPLES["yehoshua-sparse"]["masks"]
    assert len(lines(figure)) == sum(6 if mask is None else int(np.sum(mask)) for mask in masks[:2]) + 2
    assert "w3 = 0" not in texts(figure)


def test_the_paths_of_an_error_and_their_factors() -> None:
    figure = draw(step("hill"), "w1")
    told = texts(figure)
    assert len(arrows(figure)) == 5, "two errors of the outputs, two weights on the way, w1 itself"
    assert len(lines(figure)) == 5, "the other connections, faded"
    assert {line.get_alpha() for line in lines(figure)} == {0.25}
    for text in (
        "∂C/∂o1 = -0.5755",
        "w5 = 0.7",
        "w6 = -0.3",
        "∂C/∂w1 = -0.06417",
        "f'(zo1) = 0.2049",
        "f'(zh1) = 0.2425",
    ):
        assert text.replace("∂", "") in told, text
    assert "w1 = 0.3" not in told
    assert [text for text in told if "0.0400415" in text and "w5" in text], "each path is written below"
    assert "the error comes down along 2 paths" in told


def test_no_path_leads_over_a_masked_connection() -> None:
    figure = draw(step("yehoshua-sparse"), "b3")  # of h3, which is not joined to h4
    ends = {tuple(np.round(arrow.xy, 2)) for arrow in arrows(figure)}
    assert len(arrows(figure)) == len(ends) == 3, "C to o1, o1 to h5, h5 to h3"
    assert "C/b3 = -0.004956" in texts(figure)


def test_loss_and_activation_in_one_formula_are_one_factor() -> None:
    told = texts(draw(step("four-layer-softmax-tanh"), "w1", sample=2))
    assert "C/zo1 = 0.3824" in told
    assert not [text for text in told if text.startswith("f'(zo")]
    assert "the error comes down along 6 paths; sample 2 of 3 gives −0.188132 of it" in told


def test_wide_layers_show_their_ends_and_what_is_asked_for() -> None:
    figure = draw(wide())
    told = texts(figure)
    assert circles(figure) == 8 + 8 + 10
    assert told.count("⋮") == 2
    assert {"x4", "x61", "h32", "64 inputs"} <= set(told)
    assert "x5" not in told
    assert {"x22", "h28"} <= set(texts(draw(wide(), "w700")))
    assert circles(draw(wide(), "w700")) == 9 + 9 + 10


def test_units_left_out() -> None:
    assert drawn_units(16, []) == list(range(16))
    assert drawn_units(17, [5]) == [0, 1, 2, 3, None, 5, None, 13, 14, 15, 16]
    assert drawn_units(17, [4, 12]) == [0, 1, 2, 3, 4, None, 12, 13, 14, 15, 16]
    assert drawn_units(1, [0]) == [0]


def test_labels_keep_off_each_other_and_off_the_units() -> None:
    flat = [((0.0, 0.0), (2.0, 0.1)), ((0.0, 0.1), (2.0, 0.0))]  # they cross in the middle and lie close at their ends
    (x, _), (other, _) = free_places(flat, [0.5, 0.5])
    assert abs(x - other) > 0.7
    for place in (x, other):
        assert END - 0.01 <= place - 0.25 <= place + 0.25 <= 2 - END + 0.01
    assert free_places(flat[:1], [0.5]) == [(1.0, 0.05)], "in the middle where nothing is in the way"


def test_files(tmp_path: Path) -> None:
    trace, net, path = step("hill"), tmp_path / "net.png", tmp_path / "path.svg"
    trace.picture(net)
    assert imread(net).shape[2] == 4
    trace.weight("w1").picture(str(path))
    first = path.read_bytes()
    assert ElementTree.fromstring(first).tag.endswith("svg")
    trace.picture(path, "w1")
    assert path.read_bytes() == first, "the same picture is the same file"


def test_other_files_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(gpubp.DataError, match=r"must end in \.png or \.svg, got '.*net\.pdf'"):
        step("hill").picture(tmp_path / "net.pdf")
    for name in ("net", "net.jpg", ".png"):
        with pytest.raises(gpubp.DataError, match=r"must end in \.png or \.svg"):
            save(new_figure(1, 1), tmp_path / name)
    with pytest.raises(gpubp.GpubpError, match="cannot write"):
        save(new_figure(1, 1), tmp_path / "missing" / "net.png")
    assert list(tmp_path.iterdir()) == []
    save(new_figure(1, 1), tmp_path / "net.PNG")
    assert imread(tmp_path / "net.PNG", format="png").shape == (150, 150, 4)


@pytest.mark.parametrize("sample", [-1, 1, 0.5, "0", True, None])
def test_a_sample_that_is_not_there(sample: Any, tmp_path: Path) -> None:
    with pytest.raises(gpubp.DataError, match=r"sample must be one of the batch, from 0 to 0, got"):
        step("hill").picture(tmp_path / "net.png", sample=sample)


def test_a_weight_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(gpubp.DataError, match="w99"):
        step("hill").picture(tmp_path / "net.png", "w99")
    with pytest.raises(gpubp.DataError, match="masked"):
        step("yehoshua-sparse").picture(tmp_path / "net.png", "w3")


def test_too_many_layers() -> None:
    net = gpubp.MLP([1] * 62, "tanh", "identity", device="cpu", seed=0)
    with pytest.raises(gpubp.DataError, match="60 layers"):
        draw(gpubp.trace(net, [[1.0]], [[1.0]], 0.1))


def test_odd_networks_are_drawn(tmp_path: Path) -> None:
    zero = gpubp.MLP([1, 1], "tanh", "identity", use_bias=False, device="cpu", seed=0)
    zero.set_parameters([np.zeros((1, 1))])
    huge = gpubp.MLP([1, 2, 1], "relu", "identity", device="cpu", seed=0)
    for net, x in ((zero, 1.0), (huge, 1e12)):
        trace = gpubp.trace(net, [[x]], [[x]], 0.1)
        assert "1 input" in texts(draw(trace))
        trace.picture(tmp_path / "net.svg", "w1")


def test_without_matplotlib_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(gpubp.GpubpError, match=re.escape("pip install matplotlib")):
        step("hill").picture(tmp_path / "net.png")
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_saved_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")
    figure = new_figure(1, 1)
    figure.savefig = None  # fails
    with pytest.raises(TypeError):
        save(figure, path)
    assert path.read_bytes() == b"before"
