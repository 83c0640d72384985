"""docs/errata.md: its figures are the printed and the true ones, and the printed ones fail the gradient check."""

import re
from typing import Any

import numpy as np
import pytest
from test_docs import ROOT
from worked import EXAMPLES, Example, build, inputs, parameters, targets

import gpubp
from gpubp.explain.articles import sparse, two_layer
from gpubp.explain.articles.article import Article
from gpubp.explain.articles.sparse import BOTH, Slips

TEXT = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (\S.*?) +\| (-?\d\.\d+) \| (-?\d\.\d+) \|$", re.MULTILINE)
HILL, YEHOSHUA = two_layer.TwoLayers(), sparse.Sparse()
# A difference below this is rounding: of the last digit printed, and of the four digits that the author typed.
ROUNDING = {HILL.name: 1e-12, YEHOSHUA.name: 5e-5}


def flat(figures: Any) -> dict[str, float]:
    """The figures of an article, whose groups are nested, by one name each."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            found |= {f"{key}, {name}" if name in ("before", "after") else key: each for key, each in value.items()}
        else:
            found[name] = value
    return found


def rows(article: Article) -> list[tuple[str, str, str]]:
    """(name, printed, right) of each row of the article's section."""
    section = next(part for part in TEXT.split("\n## ") if f"gpubp explain {article.name}\n" in part)
    return [(found[1], found[2], found[3]) for found in ROW.finditer(section)]


def as_shown(text: str, value: float) -> bool:
    """Whether the text is the value, rounded to the digits of the text."""
    return abs(float(text) - value) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-16


@pytest.mark.parametrize("article", [HILL, YEHOSHUA], ids=lambda article: article.name)
def test_the_page_has_every_figure_that_is_wrong(article: Any) -> None:
    printed, true = flat(article.PRINTED), flat(article.true)
    wrong = [name for name, value in printed.items() if abs(value - true[name]) > ROUNDING[article.name]]
    assert sorted(name for name, *_ in rows(article)) == sorted(wrong)
    assert len(wrong) > 15
    for name, shown, right in rows(article):
        assert float(shown) == printed[name], name
        assert as_shown(right, true[name]), (name, true[name])


def test_a_wrong_digit_on_the_page_is_seen() -> None:
    assert as_shown("0.4857", 0.48565001)
    assert not as_shown("0.4857", 0.48576)
    assert not as_shown("0.48571", 0.4857)


def test_every_figure_in_the_text_is_computed() -> None:
    second, first = sparse.by_hand(Slips(rate=True)), sparse.by_hand(Slips(unit=True))
    mended = sparse.by_hand(Slips(), as_typed=True, retyped=sparse.RETYPED)
    computed = {
        "−0.0641679049644533": HILL.trace.weight("w1").gradient,
        "0.27740248": applied_twice(EXAMPLES["hill-mazur"])[1],
        "0.28047145": EXAMPLES["hill-mazur"]["after"]["cost"],
        "0.7043": sparse.PRINTED["output after"],
        "0.6981": YEHOSHUA.true["output after"],
        "0.6981087": mended["output after"],
        "0.2296": sparse.RETYPED["B→n1"],
        "0.2994": mended["connections"]["B→n1"],
        "0.7043157": sparse.by_hand(BOTH)["output after"],
        "0.7037187": second["output after"],
        "0.6987679": first["output after"],
    }
    prose = "\n".join(line for line in re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL).splitlines() if line[:1] != "|")
    assert set(re.findall(r"−?\d\.\d{4,}", prose)) == set(computed)
    for text, value in computed.items():
        assert as_shown(text.replace("−", "-"), value), text


# -- the slip gives what is printed ------------------------------------------------------------------------------------


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def applied_twice(example: Example) -> tuple[tuple[list[Any], list[Any]], float]:
    """The gradients with the slope σ'(σ(z)) for σ'(z), of two layers of sigmoids, and the cost after their step."""
    (w, v), (b, c) = parameters(example)
    x, y, factor = inputs(example), targets(example), 1 if example["loss"]["half"] else 2
    h = sigmoid(x @ w + b)
    o = sigmoid(h @ v + c)
    delta = factor * (o - y) * sigmoid(o) * (1 - sigmoid(o))
    below = delta @ v.T * sigmoid(h) * (1 - sigmoid(h))
    gradients = [x.T @ below, h.T @ delta], [below.sum(axis=0), delta.sum(axis=0)]
    net = build(example)
    net.apply_gradients(*gradients, gpubp.SGD(example["learning_rate"]))
    return gradients, net.backprop(x, y).loss


def test_the_sigmoid_applied_twice_gives_what_hill_prints() -> None:
    """From the example's data alone; test_articles.py has every figure of both articles."""
    (weights, biases), cost = applied_twice(EXAMPLES["hill"])
    printed = HILL.published()
    for one, other in zip([*weights, *biases], [*printed[0], *printed[1]], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-14)  # the printed digits over the learning rate
    assert abs(cost - two_layer.PRINTED["after"]["C"]) < 1e-15


# -- the published gradients fail --------------------------------------------------------------------------------------


def check(article: Article, after: dict[str, float]) -> gpubp.explain.gradients.GradientReport:
    return gpubp.check_gradients(article.net, article.x, article.y, article.gradients(after))


def assert_found(article: Article, true: dict[str, float], name: str, value: float) -> None:
    """The true parameters after the step pass, and with this value for one of them that one is named."""
    assert check(article, true).ok
    report, parameter = check(article, {**true, name: value}), article.trace.names.find(name)
    assert not report.ok
    assert report.where == f"{'biases' if parameter.i is None else 'weights'}[{parameter.layer}]{list(parameter.index)}"


def connections(slips: Slips) -> dict[str, float]:
    """What the author's calculation makes of the connections, by gpubp's names of them."""
    after = sparse.by_hand(slips, as_typed=True)["connections"]
    return {ours: after[name] for name, (ours, _) in sparse.CONNECTIONS.items()}


def test_all_that_hill_prints_fails() -> None:
    report = check(HILL, two_layer.PRINTED["parameters"])
    assert [tensor.name for tensor in report.wrong] == ["weights[0]", "biases[0]", "weights[1]", "biases[1]"]
    assert report.layer == 1, "the slip begins at the output"
    assert report.error > 0.1
    assert "FAIL" in str(report)


@pytest.mark.parametrize("name", two_layer.PRINTED["parameters"])
def test_one_figure_of_hills_among_true_ones_is_found(name: str) -> None:
    assert_found(HILL, HILL.true["parameters"], name, two_layer.PRINTED["parameters"][name])


def test_the_slip_fails_in_another_network_too() -> None:
    example = EXAMPLES["hill-mazur"]
    report = gpubp.check_gradients(build(example), inputs(example), targets(example), applied_twice(example)[0])
    assert not report.ok
    assert report.layer == 1


@pytest.mark.parametrize(
    ("slips", "names"),
    [
        (BOTH, ["weights[0]", "biases[0]", "weights[1]", "weights[2]"]),
        (Slips(rate=True), ["weights[0]", "biases[0]", "weights[1]", "weights[2]"]),
        (Slips(unit=True), ["weights[0]", "biases[0]", "weights[1]"]),
        (Slips(), []),
    ],
    ids=["both", "the weight for the rate", "another unit's slope", "none"],
)
def test_the_forms_of_yehoshuas_calculation(slips: Slips, names: list[str]) -> None:
    """Of the tensors, those that are off by more than the author's four digits make them."""
    report = check(YEHOSHUA, connections(slips))
    assert [tensor.name for tensor in report.tensors if tensor.error > 0.02] == names
    assert not report.ok, "four digits are no gradient to 1e-11"


@pytest.mark.parametrize("name", [name for name, *_ in rows(YEHOSHUA) if "→" in name])
def test_one_figure_of_yehoshuas_among_true_ones_is_found(name: str) -> None:
    true = {ours: YEHOSHUA.true["connections"][theirs] for theirs, (ours, _) in sparse.CONNECTIONS.items()}
    assert_found(YEHOSHUA, true, sparse.CONNECTIONS[name][0], sparse.PRINTED["connections"][name])
