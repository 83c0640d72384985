"""Plans of products that are timed once, kept for other processes, and recorded with a run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import gpubp
from gpubp.backends import autotune
from gpubp.backends.detection import cupy
from gpubp.backends.products import Products
from gpubp.cli import main

pytestmark = pytest.mark.toolchain


@pytest.fixture
def machine(emulated: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """One with three plans for each product, of which the second is the fastest."""
    monkeypatch.setenv("GPUBP_AUTOTUNE", "1")
    monkeypatch.setenv("GPUBP_CACHE", str(tmp_path))
    emulated.plans, emulated.slower = 3, {0: 0.5, 2: 1.0}
    return emulated


def arrays(rng: np.random.Generator) -> tuple[Any, ...]:
    a, b = rng.standard_normal((8, 16), np.float32), rng.standard_normal((16, 4), np.float32)
    return cupy().asarray(a), cupy().asarray(b), cupy().zeros((8, 4), "float32"), a @ b


def test_the_fastest_is_chosen_and_kept(machine: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    a, b, out, expected = arrays(rng)
    products = Products(cupy(), None)
    products.multiply(a, b, out)
    np.testing.assert_allclose(out.get(), expected, rtol=1e-5, atol=1e-6)
    timed = machine.launched["cublasLtMatmul"]
    assert timed == 3 * (1 + autotune.ROUNDS) + 1
    (name,) = products.choices.made
    assert name == "float32 8x4x16 NN 16 16 16"
    assert products.choices.made[name] == {"plan": 1, "microseconds": [1500.0, 1000.0, 2000.0]}
    other = Products(cupy(), None)
    other.multiply(a, b, out)
    assert machine.launched["cublasLtMatmul"] == timed + 1
    assert other.choices.made == products.choices.made
    (file,) = tmp_path.glob("plans-*.json")
    assert file.name == "plans-emulated-9.0-130000.json"


def test_nearly_as_fast_is_not_faster(machine: Any, rng: np.random.Generator) -> None:
    machine.slower = {0: 0.02}
    a, b, out, _ = arrays(rng)
    products = Products(cupy(), None)
    products.multiply(a, b, out)
    assert [choice["plan"] for choice in products.choices.made.values()] == [0]


def test_timing_leaves_alone_what_is_added_to(machine: Any, rng: np.random.Generator) -> None:
    a, b, out, product = arrays(rng)
    out[...] = 1
    numbers = cupy().asarray(np.array([-0.5, 1.0], np.float32))
    products = Products(cupy(), None)
    products.multiply(a, b, out, numbers[0], numbers[1])
    np.testing.assert_allclose(out.get(), 1 - 0.5 * product, rtol=1e-5, atol=1e-6)
    assert list(products.choices.made) == ["float32 8x4x16 NN 16 16 16 added"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"float32 8x4x16 NN 16 16 16": {"plan": 9}}', '{"float32 8x4x16 NN 16 16 16": 1}']
)
def test_a_damaged_file_is_timed_anew(machine: Any, rng: np.random.Generator, tmp_path: Path, content: str) -> None:
    (tmp_path / "plans-emulated-9.0-130000.json").write_text(content)
    a, b, out, _ = arrays(rng)
    products = Products(cupy(), None)
    products.multiply(a, b, out)
    assert [choice["plan"] for choice in products.choices.made.values()] == [1]
    assert len(json.loads((tmp_path / "plans-emulated-9.0-130000.json").read_text())) == 1


def test_a_training_is_the_same_and_records_its_plans(
    machine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", "1")
    monkeypatch.chdir(tmp_path)
    options = ["train", "digits", "--hidden", "8", "--epochs", "1", "--device", "cuda", "--quiet", "-o"]
    result = CliRunner().invoke(main, [*options, "tuned"])
    assert result.exit_code == 0, result.output
    plans = json.loads(Path("tuned/plans.json").read_text())
    assert {choice["plan"] for choice in plans.values()} == {1}
    assert any("added" in name for name in plans) is False  # Adam's gradients are not added to anything
    monkeypatch.setenv("GPUBP_AUTOTUNE", "0")
    assert CliRunner().invoke(main, [*options, "first"]).exit_code == 0
    assert not Path("first/plans.json").exists()
    losses = [json.loads(Path(run, "history.jsonl").read_text().splitlines()[0])["loss"] for run in ("tuned", "first")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("value", "told"), [("0", "launched kernel by kernel: GPUBP_GRAPHS=0"), ("1", "captured in CUDA graphs")]
)
def test_training_says_how_steps_are_taken(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, told: str
) -> None:
    monkeypatch.setenv("GPUBP_GRAPHS", value)
    monkeypatch.chdir(tmp_path)
    given = ["train", "digits", "--hidden", "4", "--epochs", "1", "--device", "cuda"]
    quiet, verbose = (" ".join(CliRunner().invoke(main, [*given, *more]).stderr.split()) for more in ([], ["-v"]))
    assert f"on cuda:0, steps are {told}" in verbose
    assert told not in quiet


def test_off_by_default_and_other_values_are_refused(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUBP_AUTOTUNE", raising=False)
    assert Products(cupy(), None).choices is None
    monkeypatch.setenv("GPUBP_AUTOTUNE", "yes")
    with pytest.raises(gpubp.DataError, match="GPUBP_AUTOTUNE must be '0' or '1', got 'yes'"):
        gpubp.MLP([2, 2], device="cuda", precision="tf32")
