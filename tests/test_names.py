"""The names of parameters and units: numbered as papers do, indexed as arrays are, mapped both ways."""

import numpy as np
import pytest

import gpubp
from gpubp.explain.names import Names

NAMES = Names(gpubp.MLP([3, 2, 4, 2], use_bias=[True, False, True], seed=0))


@pytest.mark.parametrize(
    ("name", "path"),
    [("w1", "W[0][0,0]"), ("w2", "W[0][0,1]"), ("w3", "W[0][1,0]"), ("w7", "W[1][0,0]"), ("w22", "W[2][3,1]")],
)
def test_weights_are_numbered_row_by_row_and_layer_by_layer(name: str, path: str) -> None:
    assert NAMES.find(name).path == path
    assert NAMES.find(path) == NAMES.find(name)


@pytest.mark.parametrize(("name", "path"), [("b1", "b[0][0]"), ("b2", "b[0][1]"), ("b3", "b[2][0]"), ("b4", "b[2][1]")])
def test_biases_are_numbered_past_a_layer_without(name: str, path: str) -> None:
    assert NAMES.find(name).path == path
    assert NAMES.find(path).name == name


def test_every_parameter_has_one_name_and_one_index() -> None:
    shapes = [(3, 2), (2, 4), (4, 2)]
    parameters = [NAMES.at("w", layer, *index) for layer, shape in enumerate(shapes) for index in np.ndindex(shape)]
    assert [parameter.name for parameter in parameters] == [f"w{number}" for number in range(1, 23)]
    for parameter in parameters:
        assert NAMES.find(parameter.name) == NAMES.find(parameter.path) == parameter


@pytest.mark.parametrize("text", ["W[1][0, 1]", "W[1][0][1]", "weights[1][0,1]", " w8 "])
def test_other_spellings(text: str) -> None:
    assert NAMES.find(text).name == "w8"


@pytest.mark.parametrize("text", ["biases[2][1]", "b [2][1]"])
def test_other_spellings_of_a_bias(text: str) -> None:
    assert NAMES.find(text).name == "b4"


@pytest.mark.parametrize(
    "name", ["w0", "w23", "b5", "b[1][0]", "W[3][0,0]", "W[0][3,0]", "W[0][0,2]", "W[0][-1,0]", "q", "", "w", 5]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(gpubp.DataError, match=r"there is no parameter|is not the name of a parameter"):
        NAMES.find(name)


def test_a_network_without_biases_says_so() -> None:
    with pytest.raises(gpubp.DataError, match="no biases"):
        Names(gpubp.MLP([2, 2], use_bias=False, seed=0)).find("b1")


def test_units_are_numbered_through_the_hidden_layers() -> None:
    assert [NAMES.unit(0, j) for j in range(3)] == ["x1", "x2", "x3"]
    assert [NAMES.unit(1, 1), NAMES.unit(2, 0), NAMES.unit(2, 3)] == ["h2", "h3", "h6"]
    assert NAMES.unit(3, 1) == "o2"
