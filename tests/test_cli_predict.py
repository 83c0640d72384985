"""`gpubp predict`: what is written, in every format, from every source, and nothing half-written or overwritten."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained import SPECIES, flowers, gpubp_, prices, run, train

import gpubp
from gpubp.data.files import open_data
from gpubp.data.preprocessing import Preprocessing

posix = pytest.mark.skipif(os.name != "posix", reason="files as POSIX has them")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    return flowers(folder / "flowers.csv")


@pytest.fixture(scope="module")
def model(folder: Path, table: Path) -> Path:
    return train(folder / "classes", table, "classification")


@pytest.fixture(scope="module")
def valuer(folder: Path) -> Path:
    return train(folder / "values", prices(folder / "prices.csv"), "regression")


def predicted(*arguments: object, stdin: Any = None) -> list[list[str]]:
    """Heading and lines."""
    result = gpubp_("predict", *arguments, "--device", "cpu", stdin=stdin)
    assert result.exit_code == 0, result.output
    return list(csv.reader(io.StringIO(result.stdout)))


def by_hand(model: Path, table: Path) -> tuple[Any, Any]:
    """(the network, its inputs for all rows)."""
    net = gpubp.load(model / "model.safetensors", "cpu")
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    return net, known.inputs(open_data(str(table), known.target, known.features).train.x)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_classes_by_name(model: Path, table: Path) -> None:
    heading, *lines = predicted(model, table)
    net, x = by_hand(model, table)
    assert heading == ["prediction"]
    assert [line[0] for line in lines] == [SPECIES[kind] for kind in net.predict(x)]
    assert set(SPECIES) == {line[0] for line in lines}


def test_probabilities(model: Path, table: Path) -> None:
    heading, *lines = predicted(model, table, "--proba")
    net, x = by_hand(model, table)
    assert heading == ["prediction", *(f"probability_{name}" for name in SPECIES)]
    found = np.array([line[1:] for line in lines]).astype(np.float32)
    np.testing.assert_array_equal(found, net.predict_proba(x).astype(np.float32))
    assert [line[0] for line in lines] == [SPECIES[kind] for kind in found.argmax(axis=1)]
    assert max(len(cell) for line in lines for cell in line[1:]) < 16


def test_values_in_the_units_of_the_file(valuer: Path, folder: Path) -> None:
    heading, *lines = predicted(valuer, folder / "prices.csv")
    net, x = by_hand(valuer, folder / "prices.csv")
    known = Preprocessing.from_config(net.metadata["preprocessing"])
    assert heading == ["prediction"]
    expected = known.values(net.forward(x).astype(np.float64))[:, 0]
    found = np.array([float(line[0]) for line in lines])
    np.testing.assert_allclose(found, expected, atol=np.finfo(np.float32).eps * known.target_scale[0])
    assert max(len(line[0]) for line in lines) <= len("5000.1234")


def test_several_values_and_labels(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "x.npy", rng.normal(size=(20, 3)))
    x = np.load(tmp_path / "x.npy")
    for output in ("identity", "sigmoid"):
        net = gpubp.MLP([3, 4, 2], "tanh", output, device="cpu", seed=1)
        net.save(tmp_path / "net.safetensors")
        heading, *lines = predicted(tmp_path / "net.safetensors", tmp_path / "x.npy")
        assert heading == ["prediction_0", "prediction_1"]
        np.testing.assert_array_equal(np.array(lines).astype(net.predict(x).dtype), net.predict(x))
    heading, *lines = predicted(tmp_path / "net.safetensors", tmp_path / "x.npy", "--proba")
    assert heading == ["prediction_0", "prediction_1", "probability_0", "probability_1"]
    np.testing.assert_array_equal(np.array(lines)[:, 2:].astype(np.float32), net.predict_proba(x))


def test_one_sigmoid(tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "x.npy", rng.normal(size=(20, 3)))
    net = gpubp.MLP([3, 4, 1], "tanh", "sigmoid", device="cpu", seed=1)
    net.save(tmp_path / "net.safetensors")
    heading, *lines = predicted(tmp_path / "net.safetensors", tmp_path / "x.npy", "--proba")
    assert heading == ["prediction", "probability_0", "probability_1"]
    assert [int(line[0]) for line in lines] == net.predict(np.load(tmp_path / "x.npy")).tolist()


def test_npy(model: Path, valuer: Path, table: Path, folder: Path, tmp_path: Path) -> None:
    net, x = by_hand(model, table)
    for options, expected in (
        ([], np.array(SPECIES)[net.predict(x)]),
        (["--proba"], net.predict_proba(x).astype(np.float32)),
    ):
        result = gpubp_("predict", model, table, "-o", tmp_path / "out.npy", "--device", "cpu", *options)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"120 predictions written to {tmp_path / 'out.npy'}\n"
        found = np.load(tmp_path / "out.npy", allow_pickle=False)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert gpubp_("predict", valuer, folder / "prices.csv", "-o", tmp_path / "out.npy", "-q").stderr == ""
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape) == (np.float64, (90,))
    assert found.tolist() == [float(line[0]) for line in predicted(valuer, folder / "prices.csv")[1:]]


def test_json(model: Path, valuer: Path, table: Path, folder: Path, tmp_path: Path) -> None:
    _, *lines = predicted(model, table, "--proba")
    found = json.loads(gpubp_("predict", model, table, "--json", "--proba").stdout)
    assert found["predictions"] == [line[0] for line in lines]
    assert found["probabilities"] == [[float(cell) for cell in line[1:]] for line in lines]
    assert set(json.loads(gpubp_("predict", model, table, "--json").stdout)) == {"predictions"}
    values = json.loads(gpubp_("predict", valuer, folder / "prices.csv", "--json").stdout)["predictions"]
    assert values == [float(line[0]) for line in predicted(valuer, folder / "prices.csv")[1:]]
    result = gpubp_("predict", model, table, "--json", "-o", tmp_path / "out.csv")
    assert json.loads(result.stdout) == {"file": str(tmp_path / "out.csv"), "rows": 120}
    assert result.stderr == ""


def test_a_file_and_standard_output_get_the_same(model: Path, table: Path, tmp_path: Path) -> None:
    process = run("predict", model, table, "--proba", "-o", "-", encoding=None)
    assert gpubp_("predict", model, table, "--proba", "-o", tmp_path / "out.csv").exit_code == 0
    assert (tmp_path / "out.csv").read_bytes() == process.stdout
    assert b"\r" not in process.stdout


# -- what is read ------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name_and_no_target_is_needed(model: Path, table: Path, tmp_path: Path) -> None:
    expected = predicted(model, table)
    rows = [line.split(",") for line in table.read_text().splitlines()]
    bare = tmp_path / "bare.csv"
    bare.write_text("".join(f"{row[1]},{row[0]}\n" for row in rows))
    assert predicted(model, bare) == expected
    bare.write_text(
        "".join(f"{row[1]},{row[0]},{'species' if n == 0 else 'unheard of'}\n" for n, row in enumerate(rows))
    )
    assert predicted(model, bare) == expected
    bare.write_text("".join(f"{row[0]}\n" for row in rows))
    result = gpubp_("predict", model, bare)
    assert result.exit_code == 4
    assert "width" in result.stderr


def test_standard_input(model: Path, table: Path) -> None:
    assert predicted(model, "-", stdin=table.read_text()) == predicted(model, table)


def test_rows_in_chunks_of_any_size(model: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = ["-o", tmp_path / "out.npy", "--device", "cpu"]
    whole = predicted(model, table), gpubp_("predict", model, table, "--json").stdout
    assert gpubp_("predict", model, table, *outputs).exit_code == 0
    array = np.load(tmp_path / "out.npy")
    monkeypatch.setattr("gpubp.cli.model.MOST_ROWS", 7)
    assert (predicted(model, table), gpubp_("predict", model, table, "--json").stdout) == whole
    assert gpubp_("predict", model, table, *outputs).exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.data.rows.CHUNK_BYTES", 1 << 19)
    net = gpubp.MLP([64, 3], device="cpu", seed=0)
    net.save(tmp_path / "net.safetensors")
    peaks = []
    for rows in (20_000, 60_000):
        np.save(tmp_path / "x.npy", np.ones((rows, 64), np.float32))
        tracemalloc.start()
        result = gpubp_("predict", tmp_path / "net.safetensors", tmp_path / "x.npy", "-o", tmp_path / "out.npy")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.exit_code == 0, result.output
        assert np.load(tmp_path / "out.npy").shape == (rows,)
    assert peaks[1] < peaks[0] + (1 << 20) < 20_000 * 64 * 4 * 2


def test_the_test_part_where_there_is_one(tmp_path: Path, rng: np.random.Generator) -> None:
    net = gpubp.MLP([3, 2], device="cpu", seed=0)
    net.save(tmp_path / "net.safetensors")
    parts = {"x_train": rng.normal(size=(9, 3)), "x_test": rng.normal(size=(4, 3))}
    np.savez(tmp_path / "data.npz", y_train=[0, 1, 1] * 3, y_test=[0, 1, 1, 0], **parts)
    result = gpubp_("predict", tmp_path / "net.safetensors", tmp_path / "data.npz", "--json")
    assert json.loads(result.stdout)["predictions"] == net.predict(parts["x_test"]).tolist()
    assert result.stderr == f"{tmp_path / 'data.npz'} has a test part: predicting its 4 rows alone\n"
    for name, x in parts.items():
        np.save(tmp_path / f"{name}.npy", x)
    for name, x in parts.items():
        result = gpubp_("predict", tmp_path / "net.safetensors", tmp_path / f"{name}.npy", "--json")
        assert json.loads(result.stdout)["predictions"] == net.predict(x).tolist()


def test_a_value_too_far_away(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubp.cli.model.MOST_ROWS", 2)
    (tmp_path / "far.csv").write_text("length,width\n" + "1,2\n" * 3 + "3,1e300\n")
    result = gpubp_("predict", model, tmp_path / "far.csv", "-o", tmp_path / "out.csv")
    assert result.exit_code == 4
    assert "row 3 (counted from 0) overflows float32: its value 1e+300 is too far" in result.stderr
    assert not (tmp_path / "out.csv").exists()


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["-o", "out.txt"], "'out.txt' ends neither in .csv nor in .npy"),
        (["-o", "out"], "ends neither"),
        (["--split", "test"], "No such option"),
    ],
)
def test_usage(options: list[str], complaint: str, model: Path, table: Path) -> None:
    result = gpubp_("predict", model, table, *options)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize("which", [0, 1, 3])
def test_a_name_that_no_file_can_have(which: int, model: Path, table: Path, tmp_path: Path) -> None:
    arguments = [str(model), str(table), "-o", str(tmp_path / "out.csv")]
    arguments[which] = "a" * 5000 + ".csv"
    result = gpubp_("predict", *arguments)
    assert result.exit_code == (4 if which == 1 else 1)
    assert result.stderr.startswith("error: ")


def test_no_probabilities_of_values(valuer: Path, folder: Path) -> None:
    result = gpubp_("predict", valuer, folder / "prices.csv", "--proba")
    assert result.exit_code == 2
    assert "--proba is for classes" in result.stderr


def test_data_is_never_overwritten(model: Path, table: Path) -> None:
    before = table.read_bytes()
    result = gpubp_("predict", model, table, "-o", table)
    assert result.exit_code == 2
    assert "would overwrite the data" in result.stderr
    assert table.read_bytes() == before


@pytest.mark.parametrize("place", ["absent/out.csv", "file/out.npy", pytest.param("/proc/out.csv", marks=posix)])
def test_a_place_that_cannot_be_written_to(place: str, model: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = gpubp_("predict", model, table, "-o", tmp_path / place)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith(f"error: cannot write {str(tmp_path / place)!r}: ")
    assert os.listdir(tmp_path) == ["file"]


@posix
@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_a_disk_that_fills_up_leaves_what_was_there(suffix: str, model: Path, table: Path, tmp_path: Path) -> None:
    import resource

    out = tmp_path / f"out.{suffix}"
    out.write_text("precious")
    limit = (500, 500)  # bytes a file may have; more is an error like that of a full disk
    limited: dict[str, Any] = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)}
    process = run("predict", model, table, "-o", out, env={"GPUBP_NATIVE": "0"}, **limited)  # g++ would be limited too
    assert process.returncode == 1
    assert process.stderr == f"error: cannot write {str(out)!r}: File too large; choose another place\n"
    assert out.read_text() == "precious"
    assert os.listdir(tmp_path) == [out.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_json_on_a_full_disk(model: Path, table: Path) -> None:
    """As with the text that test_cli_full_disk.py asks for."""
    with open("/dev/full", "w") as full:
        process = run("predict", model, table, "--json", stdout=full)
    assert process.returncode == 1
    assert process.stderr.startswith("error: cannot write ")
    assert "No space left on device" in process.stderr
    assert process.stderr.count("\n") == 1


@posix
def test_a_pipe_is_written_to_and_stays_one(model: Path, table: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    assert gpubp_("predict", model, table, "-o", tmp_path / "pipe").exit_code == 0
    assert list(csv.reader(io.StringIO(reader.communicate(timeout=60)[0]))) == predicted(model, table)
    assert (tmp_path / "pipe").is_fifo()


@posix
@pytest.mark.parametrize("rows", [120, pytest.param(40_000, marks=pytest.mark.check)])
def test_a_reader_that_leaves(rows: int, model: Path, tmp_path: Path) -> None:
    data = flowers(tmp_path / "many.csv", rows)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "gpubp", "predict", str(model), str(data)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    if rows > 1000:
        assert process.stdout.readline() == "prediction\n"
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


@posix
def test_links_and_permissions(model: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    before = os.umask(0o027)
    try:
        assert gpubp_("predict", model, table, "-o", tmp_path / "link.csv").exit_code == 0
    finally:
        os.umask(before)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("prediction\n")
    assert (tmp_path / "real.csv").stat().st_mode & 0o777 == 0o640


def test_help() -> None:
    page = gpubp_("predict", "--help")
    assert page.exit_code == 0
    assert not re.search(r"<.*>", page.stdout)
    assert all(word in page.stdout for word in ("--proba", "probability_CLASS", "standard input", "-o, --out"))
