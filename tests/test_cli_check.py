"""`gpubp check`: which rows, what it says of right and wrong gradients, those of a file, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained import flowers, gpubp_, prices, train

import gpubp
from gpubp.data.files import open_data
from gpubp.data.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("check")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    return flowers(folder / "flowers.csv")


@pytest.fixture(scope="module")
def model(folder: Path, table: Path) -> Path:
    return train(folder / "classes", table, "classification")


@pytest.fixture(scope="module")
def plain(folder: Path) -> tuple[Path, Path]:
    """A model saved from Python, and ten samples of which the last three are blank."""
    net = gpubp.MLP([3, 4, 2], "relu", dropout=0.5, dtype="float64", device="cpu", seed=1)
    net.save(folder / "plain.safetensors")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 3))
    x[7:] = 0
    np.savez(folder / "data.npz", x=x, y=rng.integers(0, 2, 10))
    np.savez(folder / "blank.npz", x=x[7:], y=[0, 1, 1])
    return folder / "plain.safetensors", folder / "data.npz"


def check(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = gpubp_("check", *arguments, "--json", "--device", "cpu")
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def by_hand(model: Path, table: Path, target: str, rows: int | None = None) -> tuple[gpubp.Backprop, gpubp.MLP]:
    """A pass over the first rows of the table."""
    net, source = gpubp.load(model / "model.safetensors", "cpu"), open_data(str(table), target)
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    x, y = known.inputs(source.train.x[:rows]).astype(np.float32), known.targets(source.train.y)[:rows]
    return net.backprop(x, y), net


def own_names(traced: gpubp.Backprop) -> dict[str, Any]:
    return {f"weight_{layer}": grad for layer, grad in enumerate(traced.weight_grads)} | {
        f"bias_{layer}": grad for layer, grad in enumerate(traced.bias_grads)
    }


def torch_names(traced: gpubp.Backprop) -> dict[str, Any]:
    return {f"{2 * layer}.weight": grad.T for layer, grad in enumerate(traced.weight_grads)} | {
        f"{2 * layer}.bias": grad for layer, grad in enumerate(traced.bias_grads)
    }


# -- its own gradients -------------------------------------------------------------------------------------------------


def test_what_it_says_of_right_gradients(model: Path, table: Path) -> None:
    result = gpubp_("check", model, table, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:2] == ["gradients right  by complex step", "32 rows of flowers, gradients computed on cpu in float32"]
    assert [line.split()[0] for line in lines[4:8]] == ["weights[0]", "biases[0]", "weights[1]", "biases[1]"]
    assert all(line.endswith("  ok") for line in lines[4:8])
    assert lines[9].startswith(("worst at weights[", "worst at biases["))
    assert [line.split()[0] for line in lines[10:]] == ["given", "numerical"]


def test_as_json(model: Path, table: Path) -> None:
    found = check(model, table, "--samples", 5)
    assert set(found) == {
        *("ok", "method", "error", "tolerance", "where", "given", "numerical", "layer", "tensors", "rows")
    }
    assert (found["ok"], found["method"], found["layer"], found["rows"]) == (True, "complex step", None, 5)
    assert len(found["tensors"]) == 4
    assert set(found["tensors"][0]) == {
        *("name", "layer", "ok", "lost", "error", "tolerance", "where", "given", "numerical")
    }


def test_a_regression(tmp_path: Path) -> None:
    data = prices(tmp_path / "prices.csv")
    found = check(train(tmp_path / "run", data, "regression"), data, "--samples", 1000)
    assert found["ok"]
    assert found["rows"] == 90


def test_rows_are_drawn_by_the_seed(model: Path, table: Path) -> None:
    first, again, other = (check(model, table, "--samples", 8, "--seed", seed) for seed in (1, 1, 2))
    assert first == again
    assert first["tensors"][0]["numerical"] != other["tensors"][0]["numerical"]


def test_wrong_gradients_are_named(model: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpubp.MLP.backprop

    def wrong(net: gpubp.MLP, x: Any, y: Any) -> gpubp.Backprop:
        traced = right(net, x, y)
        traced.weight_grads[0] *= -1
        return traced

    monkeypatch.setattr(gpubp.MLP, "backprop", wrong)
    result = gpubp_("check", model, table)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("gradients WRONG")
    assert [line.endswith("WRONG") for line in lines[4:8]] == [True, False, False, False]
    assert lines[9].startswith("worst at weights[0][")
    assert lines[12:] == ["wrong from layer 0 down, counted from 0: look there first", "the sign is wrong"]
    found = check(model, table, code=1)
    assert (found["ok"], found["layer"]) == (False, 0)
    assert found["given"] == pytest.approx(-found["numerical"], rel=1e-3)


def test_gradients_that_are_not_finite_are_null(model: Path, table: Path, folder: Path) -> None:
    traced, _ = by_hand(model, table, "species")
    traced.bias_grads[1][2] = np.nan
    np.savez(folder / "nan.npz", **own_names(traced))
    found = check(model, table, "--gradients", folder / "nan.npz", code=1)
    assert (found["where"], found["error"], found["given"]) == ("biases[1][2]", None, None)
    assert found["numerical"] is not None
    result = gpubp_("check", model, table, "--gradients", folder / "nan.npz")
    assert "worst at biases[1][2]\ngiven       nan\nnumerical" in result.stdout


def test_gradients_too_small_to_tell(tmp_path: Path) -> None:
    net = gpubp.MLP([1, 2], output="softmax", device="cpu", seed=0)
    net.set_parameters([[[20.0, 0.0]]], [[0.0, 0.0]])
    net.save(tmp_path / "sure.safetensors")
    np.savez(tmp_path / "one.npz", x=np.ones((1, 1)), y=[0])
    result = gpubp_("check", tmp_path / "sure.safetensors", tmp_path / "one.npz")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "gradients too small to tell  by complex step"
    assert [line.endswith("too small to tell") for line in lines[4:6]] == [True, True]
    assert "more --samples may help" in lines[-1]


@pytest.mark.toolchain
def test_another_device(model: Path, table: Path, emulated: Any) -> None:
    result = gpubp_("check", model, table, "--device", "cuda", "--samples", "4")
    assert result.exit_code == 0, result.output
    assert "4 rows of flowers, gradients computed on cuda:0 in float32" in result.stdout


# -- kinks -------------------------------------------------------------------------------------------------------------


def test_rows_at_a_kink_are_left_out(plain: tuple[Path, Path]) -> None:
    result = gpubp_("check", *plain)
    assert result.exit_code == 0, result.output
    note, _, cause = result.stderr.partition(" left out: in row ")
    assert note == "3 rows at a kink"
    assert cause[0] in "789"
    assert "has z = 0 as all its inputs and its bias are 0, and relu has a kink at 0" in cause
    assert result.stdout.splitlines()[1] == "7 rows of data, gradients computed on cpu in float64"
    assert gpubp_("check", *plain, "-q").stderr == ""
    assert {check(*plain, "--samples", 5, "--seed", seed)["rows"] for seed in range(5)} == {5}


def test_only_rows_that_were_passed_over_are_counted(plain: tuple[Path, Path]) -> None:
    for seed in range(8):
        first, second = np.random.default_rng(seed).choice(10, 2, replace=False)
        if first < 7 or second < 7:
            result = gpubp_("check", *plain, "--samples", 1, "--seed", seed)
            assert result.stderr.startswith(f"1 row at a kink left out: in row {first} " if first >= 7 else "")
            assert bool(result.stderr) == (first >= 7)


def test_a_file_of_kinks_alone_is_refused(plain: tuple[Path, Path], folder: Path) -> None:
    result = gpubp_("check", plain[0], folder / "blank.npz")
    assert result.exit_code == 4
    assert "3 of 3 samples are at one: 0, 1, 2; in sample" in result.stderr
    assert result.stdout == ""


# -- gradients of a file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [own_names, torch_names])
@pytest.mark.parametrize("rows", [None, 7])
def test_gradients_of_another_implementation(
    model: Path, table: Path, folder: Path, named: Any, rows: int | None
) -> None:
    np.savez(folder / "given.npz", **named(by_hand(model, table, "species", rows)[0]))
    chosen = [] if rows is None else ["--samples", rows]
    result = gpubp_("check", model, table, "--gradients", folder / "given.npz", *chosen)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1] == f"{rows or 120} rows of flowers, gradients from given.npz"
    assert check(model, table, "--gradients", folder / "given.npz", "--samples", 50, code=1)["ok"] is False


def test_a_part_of_them(model: Path, table: Path, folder: Path) -> None:
    given = own_names(by_hand(model, table, "species")[0])
    np.savez(folder / "part.npz", weight_1=given["weight_1"], bias_0=2 * given["bias_0"])
    result = gpubp_("check", model, table, "--gradients", folder / "part.npz")
    assert result.exit_code == 1
    assert result.stderr == "not in the file, and so not checked: weights[0], biases[1]\n"
    assert [line.split()[0] for line in result.stdout.splitlines()[4:6]] == ["biases[0]", "weights[1]"]
    assert "given is 2 times too large" in result.stdout


def test_a_missing_bias_is_not_missed(tmp_path: Path, rng: np.random.Generator) -> None:
    net = gpubp.MLP([2, 2], use_bias=False, dtype="float64", device="cpu", seed=0)
    net.save(tmp_path / "bare.safetensors")
    x, y = rng.standard_normal((4, 2)), [0, 1, 1, 0]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.savez(tmp_path / "given.npz", weight_0=net.backprop(x, y).weight_grads[0])
    result = gpubp_(
        "check", tmp_path / "bare.safetensors", tmp_path / "data.npz", "--gradients", tmp_path / "given.npz"
    )
    assert (result.exit_code, result.stderr) == (0, "")


def test_in_float64_they_are_held_to_more(plain: tuple[Path, Path], folder: Path) -> None:
    with np.load(plain[1]) as samples:
        traced = gpubp.load(plain[0], "cpu").backprop(samples["x"][:7], samples["y"][:7])
    np.savez(folder / "double.npz", **own_names(traced))
    found = check(*plain, "--gradients", folder / "double.npz", "--samples", 7)
    assert found["error"] < 1e-12
    assert found["tolerance"] == 1e-11
    result = gpubp_("check", *plain, "--gradients", folder / "double.npz")
    assert result.exit_code == 4
    assert "3 of 10 samples are at one: 7, 8, 9" in result.stderr


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({}, "holds no arrays; it needs some of weight_0, 0.weight, bias_0"),
        ({"weigth_0": np.ones((2, 8))}, "holds 'weigth_0.npy', which is not looked for; did you mean 'weight_0'?"),
        ({"weight_0": np.ones((8, 2))}, r"weight_0 has shape (8, 2), but (2, 8) is needed"),
        ({"0.weight": np.ones((2, 8))}, r"0.weight has shape (2, 8), but (8, 2) is needed"),
        ({"bias_1": np.ones(3), "2.bias": np.ones(3)}, "holds 2.bias, and the same by its other name"),
        ({"bias_1": np.array(["a", "b", "c"])}, "bias_1 has dtype <U1, but numbers are needed"),
        ({"bias_1": np.array([1, None, 3], object)}, "bias_1 holds Python objects"),
    ],
)
def test_files_that_cannot_be(arrays: Any, complaint: str, model: Path, table: Path, folder: Path) -> None:
    np.savez(folder / "odd.npz", **arrays)
    result = gpubp_("check", model, table, "--gradients", folder / "odd.npz")
    assert result.exit_code == 4, result.output
    assert complaint in result.stderr


def test_bytes_that_are_no_npz_file(model: Path, table: Path, folder: Path) -> None:
    (folder / "junk.npz").write_bytes(b"PK\x03\x04 and no more")
    result = gpubp_("check", model, table, "--gradients", folder / "junk.npz")
    assert result.exit_code == 4
    assert "junk.npz is damaged, or no .npz file" in result.stderr


# -- usage -------------------------------------------------------------------------------------------------------------


def test_bad_input(model: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("length,width\n1,2\n")
    (tmp_path / "rose.csv").write_text("length,width,species\n1,2,rose\n")
    for arguments, code, complaint in (
        ([model, table, "--samples", "0"], 2, "0 is not in the range"),
        ([model, table, "--gradients", tmp_path / "none.npz"], 4, "none.npz: there is no such file"),
        ([tmp_path / "none", table], 1, "there is no such file"),
        ([model, tmp_path / "none.csv"], 4, "there is no such file"),
        ([model, tmp_path / "bare.csv"], 4, "no column 'species' for the target"),
        ([model, tmp_path / "rose.csv"], 4, "none of those that were trained on"),
    ):
        result = gpubp_("check", *arguments)
        assert result.exit_code == code, result.output
        assert complaint in result.stderr
