"""The articles' examples: gpubp's figures are the true ones, the printed ones fail where they are wrong, and why."""

import json
from fractions import Fraction
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sampled import sampled
from worked import EXAMPLES, all_close, close

import gpubp
from gpubp.explain.articles import ARTICLES, article, chain, one_weight, sparse, two_layer
from gpubp.explain.document import Table, Verdict

WORKED = {
    "sparse": "yehoshua-sparse",
    "two-layer": "hill",
    "softmax": "four-layer-softmax-sigmoid",
    "chain": "ufldl-chain",
    "columns": "ufldl-3-2-2",
    "one-weight": "one-weight",
}
WRONG = ("sparse", "two-layer")


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    return {name: kind() for name, kind in ARTICLES.items()}


def test_they_are_all_here() -> None:
    assert tuple(ARTICLES) == tuple(WORKED)
    for name, kind in ARTICLES.items():
        assert kind.name == name
        assert len(kind.summary) <= 64


@pytest.mark.parametrize("name", WORKED)
def test_the_step_is_the_worked_example(shown: dict[str, Any], name: str) -> None:
    example, step = EXAMPLES[WORKED[name]], shown[name].trace
    assert step.dtype == "float64"
    assert step.learning_rate == example["learning_rate"]
    close(step.x, example["x"])
    close(step.y, example["y"])
    for field, key in (("z", "zs"), ("delta", "deltas"), ("weight", "weights"), ("bias", "biases")):
        all_close([getattr(layer, field) for layer in step.layers], example[key], what=key)
    for field in ("weight", "bias"):
        all_close([getattr(layer, f"{field}_grad") for layer in step.layers], example[f"{field}_grads"])
        kind = "weights" if field == "weight" else "biases"
        all_close([getattr(layer, f"{field}_after") for layer in step.layers], example["after"][kind])
    close(step.before.loss, example["cost"])
    close(step.after.loss, example["after"]["cost"])
    close(step.after.outputs, example["after"]["outputs"])


@pytest.mark.parametrize("name", WORKED)
def test_the_verdict_stands_last_and_says_whether_the_article_is_right(shown: dict[str, Any], name: str) -> None:
    document = shown[name].document()
    verdicts = [block for block in document.blocks if isinstance(block, Verdict)]
    assert verdicts == [document.blocks[-1]]
    assert verdicts[0].ok == shown[name].ok == (name not in WRONG)
    assert ("fail the gradient check" in verdicts[0].text) == (name in WRONG)
    assert shown[name].source in [getattr(block, "text", None) for block in document.blocks]


@pytest.mark.parametrize("name", WORKED)
def test_gpubp_passes_the_gradient_check_that_the_printed_numbers_face(shown: dict[str, Any], name: str) -> None:
    assert shown[name].own_check.ok
    assert shown[name].check.ok == (name not in WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_the_true_parameters_would_pass(shown: dict[str, Any], name: str) -> None:
    example = shown[name]
    group = "parameters" if name == "two-layer" else "connections"
    true = {sparse.CONNECTIONS.get(key, (key,))[0]: value for key, value in example.true[group].items()}
    assert gpubp.check_gradients(example.net, example.x, example.y, example.gradients(true)).ok


@pytest.mark.parametrize("name", WORKED)
def test_facts_are_the_numbers_of_the_trace_and_of_the_article(shown: dict[str, Any], name: str) -> None:
    facts = json.loads(shown[name].to_json())
    assert facts["ok"] == shown[name].ok
    assert facts["printed"] == shown[name].PRINTED
    assert facts["trace"]["before"]["loss"] == shown[name].trace.before.loss
    assert facts["gradient_check"]["ok"] == shown[name].check.ok
    assert facts["differences"] == article.differences(facts["printed"], facts["true"])


@pytest.mark.parametrize("name", WORKED)
def test_it_fits_the_screen(shown: dict[str, Any], name: str) -> None:
    lines = str(shown[name]).splitlines()
    assert len(lines) <= 66
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines).replace(" …", "")  # nothing is cut off


@pytest.mark.parametrize("name", WORKED)
def test_no_table_is_broken_in_a_narrow_terminal(shown: dict[str, Any], name: str) -> None:
    console = Console(width=80, file=StringIO(), record=True)
    console.print(shown[name])
    lines = console.export_text().splitlines()
    tables = [block for block in shown[name].document().blocks if isinstance(block, Table)]
    assert sum("──" in line for line in lines) == len(tables)
    assert lines.count("") <= len(shown[name].document().blocks)  # rows that take several lines are set apart


@pytest.mark.parametrize("name", sampled(WORKED, ["two-layer"]))  # for each g++ compiles kernels in float64
@pytest.mark.toolchain
def test_a_cuda_device_shows_the_same(name: str, shown: dict[str, Any], emulated: Any) -> None:
    here, there = shown[name].trace, ARTICLES[name](device="cuda")
    assert there.trace.device.startswith("cuda")
    assert there.ok == shown[name].ok
    for one, other in zip(here.layers, there.trace.layers, strict=True):
        for field in ("z", "y", "delta", "weight_grad", "weight_after"):
            np.testing.assert_allclose(getattr(other, field), getattr(one, field), rtol=1e-10, atol=1e-12)
    assert there.trace.after.loss == pytest.approx(here.after.loss, rel=1e-10)


def cells(example: Any, tone: str) -> list[str]:
    tables = [block for block in example.document().blocks if isinstance(block, Table)]
    return [cell.text for table in tables for row in table.rows for cell in row if cell.tone == tone]


# Hill


def test_the_sigmoid_applied_twice_is_every_figure_that_hill_prints(shown: dict[str, Any]) -> None:
    slipped = two_layer.by_hand(article.sigmoid)
    assert article.apart(two_layer.PRINTED["parameters"], slipped["parameters"]) < 2.5e-15
    for group, printed in two_layer.PRINTED.items():
        assert article.apart(printed, slipped[group]) < 1e-12, group
    assert sum(map(len, two_layer.PRINTED.values())) == 25
    right = two_layer.by_hand(lambda z: z)
    assert article.apart(shown["two-layer"].true, right) < 1e-15
    assert article.apart(two_layer.PRINTED["parameters"], right["parameters"]) > 3e-3


def test_all_of_hills_parameters_are_red_and_the_true_ones_green(shown: dict[str, Any]) -> None:
    # 12 parameters and 12 gradients, 2 outputs and the cost; in the chain rule two slopes, a sum and two products.
    red = cells(shown["two-layer"], "bad")
    assert len(red) == 12 + 12 + 3 + 5
    assert red[:2] == ["0.306495", "-0.064946"]
    green = cells(shown["two-layer"], "good")
    assert "-0.064168" in green
    assert "0.204947" in green
    assert not set(red) & set(green)


def test_hills_first_gradient_was_right_and_the_slip_points_downhill(shown: dict[str, Any]) -> None:
    hill = shown["two-layer"]
    assert abs(two_layer.EARLIER - hill.trace.weight("w1").gradient) < 5e-17
    assert hill.angle == pytest.approx(8.5, abs=0.05)
    assert two_layer.PRINTED["after"]["C"] < hill.trace.before.loss
    assert hill.trace.after.loss < two_layer.PRINTED["after"]["C"]


# Yehoshua


def test_two_slips_in_four_digits_are_the_authors_notebook_to_the_last_bit() -> None:
    typed = sparse.by_hand(sparse.BOTH, as_typed=True)
    assert article.apart(sparse.PRINTED, typed) < 2e-17
    commits = [(sparse.Slips(rate=True), sparse.REPAIRED[0]), (sparse.Slips(), sparse.REPAIRED[1])]
    for slips, (date, printed) in commits:
        output = sparse.by_hand(slips, as_typed=True, retyped=sparse.RETYPED)["output after"]
        assert abs(output - printed) < 2e-16, date


def test_each_slip_alone_in_full_precision() -> None:
    outputs = {
        (unit, rate): sparse.by_hand(sparse.Slips(unit=unit, rate=rate))["output after"]
        for unit, rate in product((False, True), repeat=2)
    }
    expected = {(True, True): 0.7043157, (False, True): 0.7037187, (True, False): 0.6987679, (False, False): 0.6980763}
    assert {slips: round(output, 7) for slips, output in outputs.items()} == expected
    assert abs(outputs[True, True] - sparse.PRINTED["output after"]) < 5e-5
    assert abs(outputs[False, True] - sparse.REPAIRED[0][1]) < 5e-5
    assert abs(outputs[False, False] - sparse.REPAIRED[1][1]) < 5e-5


def test_without_slips_the_calculation_by_hand_is_gpubps(shown: dict[str, Any]) -> None:
    assert article.apart(shown["sparse"].true, sparse.by_hand(sparse.Slips())) < 1e-15


def test_four_digits_alone_would_not_be_called_wrong(shown: dict[str, Any]) -> None:
    example = shown["sparse"]
    assert not example.ok
    assert example.check.error > 1
    assert 1e-4 < example.typed.error < 1e-2
    # The only connection whose weight is the learning rate, and whose delta is right.
    right = [row for row in example._step().rows if row[3].tone == "good"]
    assert [row[0].text for row in right] == ["n4→out"]


@pytest.mark.parametrize("slips", [sparse.BOTH, sparse.Slips(unit=True), sparse.Slips(rate=True)])
def test_each_slip_fails_the_gradient_check_in_full_precision(shown: dict[str, Any], slips: sparse.Slips) -> None:
    example = shown["sparse"]
    followed = example._followed(sparse.by_hand(slips)["connections"])
    assert gpubp.check_gradients(example.net, example.x, example.y, followed).error > 0.1


def test_three_readings(shown: dict[str, Any]) -> None:
    expected = ["yehoshua-sparse", "yehoshua-dense", "yehoshua-dense-all-biases"]
    for step, name in zip(shown["sparse"].readings.values(), expected, strict=True):
        close(step.after.outputs, EXAMPLES[name]["after"]["outputs"])
        close(step.after.loss, EXAMPLES[name]["after"]["cost"])
    assert [f"{step.after.outputs[0, 0]:.7f}" for step in shown["sparse"].readings.values()] == [
        "0.6980763",
        "0.6982264",
        "0.7330581",
    ]


# Equations


@pytest.mark.parametrize("name", ["softmax", "chain", "columns"])
def test_every_equation_is_gpubps(shown: dict[str, Any], name: str) -> None:
    example = shown[name]
    listed = example.equations.values() if name != "softmax" else example.equations
    assert len(listed) == {"softmax": 19, "chain": 17, "columns": 12}[name]
    assert max(equation.difference for equation in listed) < 1e-15
    assert not cells(example, "bad")
    wrong = type(next(iter(listed)))("", 1.0, "loss", 1.1)
    assert wrong.difference == pytest.approx(0.1)


def test_a_batch_and_its_jacobians(shown: dict[str, Any]) -> None:
    example = shown["softmax"]
    assert example.summed < 1e-15
    singles = [sample.before.loss for sample in example.samples]
    assert sum(singles) == pytest.approx(example.trace.before.loss, rel=1e-14)
    assert [name for _, _, name, _ in example.descent] == ["D3", "dH2", "D2", "dH1", "D1", "dX"]
    assert max(difference for *_, difference in example.descent) < 1e-15
    np.testing.assert_allclose(example.descent[0][1], example.trace.layers[2].delta[:1], rtol=1e-12)
    np.testing.assert_allclose(example.descent[-1][1], example.trace.input_grad[:1], rtol=1e-12)


def test_the_product_along_the_chain_for_either_input_unit(shown: dict[str, Any]) -> None:
    example = shown["chain"]
    for step, name in zip(example.inputs.values(), ["ufldl-chain", "ufldl-chain-sigmoid-input"], strict=True):
        factors = example.product(float(step.x[0, 0]))
        slope = float(np.prod(list(factors.values())))
        assert slope == pytest.approx(EXAMPLES[name]["bias_grads"][0][0], rel=1e-12)
        assert slope * step.x[0, 0] == pytest.approx(EXAMPLES[name]["weight_grads"][0][0][0], rel=1e-12)
    assert max(example.gaps.values()) < 1e-15
    assert chain.WEIGHTS == [[[0.8]], [[-1.2]], [[0.5]]]


def test_columns_name_each_weight_as_the_article_does(shown: dict[str, Any]) -> None:
    named = {row[0].text: row[1].text for row in shown["columns"]._step().rows}
    assert named["W⁽¹⁾₂₃"] == "w6"  # to unit 2 from input 3: W[0][2,1]
    assert named["W⁽²⁾₁₂"] == "w9"
    assert named["b⁽²⁾₁"] == "b3"
    assert len(named) == 14


# One weight


def test_one_weight_follows_the_closed_form(shown: dict[str, Any]) -> None:
    example, published = shown["one-weight"], EXAMPLES["one-weight"]["trajectory"]
    for k, record in enumerate(example.table):
        exact = Fraction(1, 3) + Fraction(7, 15) * Fraction(11, 20) ** k
        assert abs(Fraction(record["w"]) - exact) < 1e-15
        assert abs(one_weight.exactly(k) - exact) < 1e-15
        assert abs(record["a"] - published["outputs"][k]) < 1e-15
        assert abs(record["C"] - published["costs"][k]) < 1e-15
        assert abs(record["dC/dw"] - published["gradients"][k]) < 3e-15
    assert len(example.table) == 26
    assert abs(one_weight.BEST - 1 / 3) < 1e-16


def test_the_fate_of_each_learning_rate_is_told_by_its_way(shown: dict[str, Any]) -> None:
    sweep = shown["one-weight"].sweep
    assert {name: one_weight.fate(weights) for name, weights in sweep.items()} == {
        "0.1": "slowly, from one side",
        "2/9": "there in one step",
        "0.4": "side to side, nearer",
        "4/9": "bounces for ever",
        "0.5": "diverges",
    }
    published = EXAMPLES["one-weight"]["learning_rate_sweep"]
    for name, weights in sweep.items():
        text = repr(one_weight.RATES[name])
        np.testing.assert_allclose(weights, published[text], rtol=1e-12)


def test_one_weight_draws_its_rates(shown: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shown["one-weight"].picture(tmp_path / "rates.svg")
    drawn = (tmp_path / "rates.svg").read_text(encoding="utf-8")
    assert all(f"r = {name}: " in drawn for name in one_weight.RATES)
