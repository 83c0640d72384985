"""The scripts in examples/ that work through the articles run, and print the figures that they are about."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed(script: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def differences(text: str) -> list[float]:
    """What stands after "largest difference"."""
    return [float(size) for size in re.findall(r"largest difference (\S+)$", text, re.MULTILINE)]


def test_two_layer(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("two_layer.py", capsys)
    assert "dC/dw1: -0.064946 printed, -0.064168 true" in out
    assert "the gradients agree with" in out
    assert "printed: the gradients FAIL against" in out
    slip = re.search(r"come out to (\S+)$", out, re.MULTILINE)
    assert slip is not None
    assert float(slip[1]) < 1e-12


def test_sparse(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("sparse.py", capsys)
    assert re.findall(r"-> (0\.\d{7}) ", out) == ["0.6980763", "0.6982264", "0.7330581"]


def test_four_layer_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("four_layer_softmax.py", capsys)
    assert "the equations: the gradients agree with" in out
    assert len(differences(out)) == 5
    assert max(differences(out)) < 1e-14


def test_ufldl(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("ufldl.py", capsys)
    product = re.search(r"product: (\S+), gpubp's gradient: (\S+)$", out, re.MULTILINE)
    assert product is not None
    assert product[1] == product[2] == "0.001301021568210"
    assert out.count("[0.021626, -0.018509]") == 2


def test_one_weight(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed("one_weight.py", capsys)
    rows = re.findall(r"^ +(\d+)  (\S+)   (\S+)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == [*map(str, range(11)), "18", "25"]
    assert all(weight == closed for _, weight, closed in rows)
    rates = dict(re.findall(r"^ +(\S+) .* (\S+)$", out.split("steps\n")[1], re.MULTILINE))
    assert rates == {"0.1": "0.3345", "2/9": "0.3333", "0.4": "0.3834", "4/9": "0.8000", "0.5": "4.6795"}
