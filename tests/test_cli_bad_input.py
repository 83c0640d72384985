"""What the commands refuse: with the exit code, a message that says what is wrong and what to do, and nothing touched.

What click refuses is a usage error (2), what stands in a file bad data (4), all else a failure (1).
"""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from click.testing import CliRunner
from trained import flowers, prices, train

import gpubp
from gpubp.cli import main

X = np.random.default_rng(0).normal(size=(20, 2))
Y = np.arange(20) % 2
TABLE = [["a", "b", "kind"], *([f"{a:.3f}", f"{b:.3f}", "uv"[i % 2]] for i, (a, b) in enumerate(X))]
COLUMNS = {"a": X[:, 0], "b": X[:, 1], "kind": np.array(["u", "v"])[Y]}


class Trap:
    """Unpickling it leaves a file behind."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("sprung"),)


def csv(line: int = 1, column: int = 0, cell: str = "a", **columns: str) -> str:
    """The table with this cell in that line, counted from 1."""
    rows = [list(row) for row in TABLE]
    rows[line - 1][column] = cell
    return "".join(",".join(row) + "\n" for row in rows)


def hole(value: float) -> Any:
    x = X.copy()
    x[7, 1] = value
    return x


def put(name: str, content: Any) -> None:
    """A file of this name, of whatever kind its content and its suffix ask for."""
    path = Path(name)
    if content is None:
        path.mkdir()
    elif isinstance(content, dict) and path.suffix == ".parquet":
        polars.DataFrame(content).write_parquet(path)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def everything() -> dict[str, bytes | None]:
    """All that lies in the current folder, hidden files too."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def refused(code: int, words: str, *arguments: object) -> None:
    before = everything()
    result = CliRunner().invoke(main, [*map(str, arguments), "-q"], prog_name="gpubp")
    assert isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    message = " ".join(result.stderr.split())
    assert re.search(words, message), message
    if code != 2:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert everything() == before


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`flowers` tells classes apart by length and width, `prices` predicts values from area and age."""
    folder = tmp_path_factory.mktemp("models")
    train(folder / "flowers", flowers(folder / "flowers.csv"), "classification")
    train(folder / "prices", prices(folder / "prices.csv"), "regression")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds what must stay as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("out.csv", "out.npy", "out.onnx", "out.npz", "config.json", "file"):
        Path(name).write_text("precious")
    for name, x, y in (("wide", np.ones((9, 3)), Y[:9]), ("pairs", X, X), ("bytes", np.ones((9, 2), np.uint8), Y[:9])):
        np.savez(f"{name}.npz", x=x, y=y)


# -- usage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--batch-size 0", "--batch-size.*'0' is neither a positive number of rows nor full"),
        ("--batch-size -1", "--batch-size.*'-1' is neither a positive number"),
        ("--batch-size " + "1" * 5000, "--batch-size.*is neither a positive number"),
        ("--lr 0", r"--learning-rate.*0\.0 is not in the range x>0"),
        ("--lr -1", r"-1\.0 is not in the range x>0"),
        ("--lr nan", "'nan' is not a finite number"),
        ("--lr inf", "'inf' is not a finite number"),
        ("--lr fast", "'fast' is not a valid float"),
        ("--hidden 0", "--hidden.*'0' is not a list of positive widths such as 256,128"),
        ("--hidden 8,-8", "'8,-8' is not a list of positive widths"),
        ("--hidden ,", "',' is not a list of positive widths"),
        ("--hidden " + "1" * 5000, "--hidden.*is not a list of positive widths"),
        ("--activation rleu", "--activation.*'rleu' is not known; did you mean 'relu'"),
        ("--activation swish", "did you mean 'silu'"),
        ("--optimizer Adam", "--optimizer.*'Adam' is not known; did you mean 'adam'"),
        ("--schedule cosin", "--schedule.*did you mean 'cosine'"),
        ("--task classify", "--task.*did you mean 'classification'"),
        ("--device gpu", "--device.*'gpu' is not one of auto, cpu, cuda, cuda:N"),
        ("--device cuda:" + "1" * 5000, "is not one of auto, cpu, cuda, cuda:N"),
        ("--dropout 1", r"1\.0 is not in the range 0<=x<1"),
        ("--epochs 0", "0 is not in the range x>=1"),
        ("--epochs 1.5", "'1.5' is not a valid integer"),
        ("--val 1", "'1' is neither a share between 0 and 1 nor a file"),
        ("--val nan", "'nan' is neither a share"),
        ("--test 0", "is not in the range 0<x<1"),
        ("--seed -1", "-1 is not in the range 0<=x<="),
        ("--weight-decay -0.1", "-0.1 is not in the range x>=0"),
        ("--learnin-rate 1", "No such option.*--learnin-rate.*--learning-rate"),
        ("--resume run --out run", "--out is for a new run"),
        ("other.csv", "unexpected extra argument"),
    ],
    ids=lambda value: value[:20],
)
def test_usage_of_train(arguments: str, words: str) -> None:
    put("data.csv", csv())
    refused(2, words, "train", "data.csv", *arguments.split(" "))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe", "cannot be read as TOML"),
        ("epochs 3", "cannot be read as TOML.*line 1"),
        ("epochs = " + "1" * 5000, "cannot be read as TOML"),
        ("a = " + "[" * 5000, "cannot be read as TOML"),
        (None, "cannot be read as TOML.*[Dd]irectory"),
        ("epochs = true", "--epochs.*is not a valid integer"),
        ("epochs = 2024-01-01", "--epochs.*is not a valid integer"),
        ("lr = nan", "is not a finite number"),
        ("hidden = [[8]]", "is not a list of positive widths"),
        ("verbose = 'perhaps'", "--verbose.*is not a valid boolean"),
        ("lr = 1\nlearning-rate = 2", "by two of its names"),
        ("activation = 'rleu'", "did you mean 'relu'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_cannot_be_read(content: Any, words: str) -> None:
    put("data.csv", csv())
    put("some.toml", content)
    refused(2, words, "train", "data.csv", "--config", "some.toml")


def test_commands_by_nearly_their_names() -> None:
    refused(2, "No such command 'trian'; did you mean 'train'", "trian", "digits")
    refused(2, "DATA is missing", "train")
    refused(2, "Missing argument 'DATA'", "evaluate", "run")
    refused(2, "Missing option '-o' / '--out'", "export", "run")


# -- data to train on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("t.csv", csv(4, 1, "1,2"), "", r"t\.csv, line 4 has 4 fields, but the first line has 3"),
        ("t.csv", csv(4, 1, "nan"), "", r"t\.csv, line 4, column 'b': the value is missing \('nan'\); remove the row"),
        ("t.csv", csv(4, 1, "-inf"), "", r"t\.csv, line 4, column 'b': '-inf' is not finite; remove the row"),
        ("t.csv", csv(4, 1, "wide"), "", "line 4, column 'b': 'wide' is not a number; encode text as numbers"),
        ("t.csv", csv(4, 2, ""), "", "line 4, column 'kind': the value is missing"),
        ("t.csv", csv().replace(",v", ",u"), "", "kind has one class only, 'u'"),
        ("t.csv", csv(), "--target knid", r"t\.csv has no column 'knid' for the target; did you mean 'kind'\?"),
        ("t.csv", csv(), "--target 3", "t.csv has no column '3' for the target; known: a, b, kind"),
        ("t.csv", csv(), "--target a", "column 'kind': 'u' is not a number"),
        ("t.csv", csv(), "--task regression", "kind holds text such as 'u', so --task regression cannot be"),
        ("t.csv", csv(1, 1, "a"), "", "the columns 0 and 1 .*are both called 'a'; rename one"),
        ("t.csv", "", "", "t.csv is empty"),
        ("t.csv", "a,b,kind\n", "", "t.csv holds a header and no rows"),
        ("t.csv", "kind\nu\nv\n", "--target kind", "t.csv has no column but 'kind', the target"),
        ("t.csv", "a,kind\n1,u\n", "", "--test 0.2 of 1 rows of 't.csv' leaves one part without rows; choose another"),
        ("t.csv", "a,kind\n1,u\n2,v\n", "", "--val 0.1 of 1 rows of 't.csv' leaves one part without rows"),
        ("t.csv", csv(), "--test 0.99", "--test 0.99 of 20 rows of 't.csv' leaves one part without rows"),
        ("t.csv", csv(), "--hidden 999999999999999", r"sizes=\[2, 999999999999999, 2\] .* more than any memory"),
        ("t.csv", csv(), "--val absent.csv", r"absent\.csv: there is no such file"),
        ("t.csv", csv(), "--val config.json", r"config\.json"),
        ("t.csv", bytes(range(256)) * 4, "", r"t\.csv.*no text"),
        ("t.csv", gzip.compress(b"a,b\n1,2\n"), "", r"t\.csv is compressed.*gunzip"),
        ("t.npz", bytes(range(256)) * 4, "", r"t\.npz does not begin as a \.npz file"),
        ("t.npz", b"PK" + bytes(range(256)) * 4, "", r"t\.npz is damaged"),
        ("t.npz", {"x": hole(np.nan), "y": Y}, "", r"t\.npz: x: row 7, column 1 .* is nan.*remove the row"),
        ("t.npz", {"x": hole(np.inf), "y": Y}, "", r"t\.npz: x: row 7, column 1 .* is inf"),
        ("t.npz", {"x": X, "y": Y[:9]}, "", r"y has shape \(9,\), but .*x holds 20 samples; give one target for each"),
        ("t.npz", {"x": X, "y": np.array([Trap()] * 20)}, "", "y holds Python objects, which are never unpickled"),
        ("t.npz", {"x": X.astype(complex), "y": Y}, "", "x has dtype complex128, but numbers are needed"),
        ("t.npz", {"x": X[:0], "y": Y[:0]}, "", r"x has shape \(0, 2\); at least one sample"),
        ("t.npz", {"x": X, "y": Y * 0}, "", "y has one class only, 0"),
        ("t.npz", {"x": X, "y": X}, "--task classification", "y does not hold one class a row.*--task regression"),
        ("t.npz", {"x": X, "y": Y * 1e19}, "", r"y holds classes as large as 1e\+19; .* use --task regression"),
        ("t.npz", {"x_train": X, "y_train": Y, "x_test": hole(1e99), "y_test": Y}, "", r"row 7 .* overflows float32"),
        ("t.npz", {"x": X, "y": Y}, "--val wide.npz", r"'wide\.npz' have shape \(3,\), but .* have \(2,\)"),
        ("t.npz", {"x": X, "y": Y}, "--val pairs.npz", r"y has shape \(20, 2\), but one class for each row is needed"),
        ("t.npz", {"x": X, "y": Y}, "--val bytes.npz", r"'bytes\.npz' holds bytes, as images, but .* are numbers"),
        ("t.npz", {"images": X, "y": Y}, "", r"t\.npz holds images\.npy, y\.npy; the arrays x_train and y_train"),
        ("t.npz", {"x": X, "y": Y}, "--target y", "t.npz has no columns to choose the target 'y' from"),
        ("x.npy", np.array([Trap()] * 20), "--target file", "x.npy holds Python objects|file is neither"),
        ("x.npy", X, "", r"x\.npy needs targets, but there is no y\.npy beside it; give them with --target"),
        ("t.parquet", bytes(range(256)) * 4, "", r"t\.parquet does not begin as a \.parquet file"),
        ("t.parquet", b"PAR1" + bytes(range(256)), "", r"t\.parquet cannot be read as Parquet"),
        ("t.parquet", COLUMNS | {"b": hole(np.nan)[:, 1]}, "", r"t\.parquet, row 7 .*, column 'b': the value is mis"),
        ("t.parquet", COLUMNS | {"a": COLUMNS["kind"]}, "", "the column 'a' holds String; encode it as numbers"),
        ("t.parquet", COLUMNS, "--target knid", "t.parquet has no column 'knid'.*did you mean 'kind'"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" + bytes(9), "", "IDX header that is damaged|no train-labels"),
        ("folder", None, "", r"folder is a folder without x_train\.npy.*give one of its files"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_data_to_train_on(name: str, content: Any, options: str, words: str) -> None:
    put(name, content)
    refused(4, words, "train", name, "--epochs", "1", "--device", "cpu", *options.split())
    assert not Path("sprung").exists()


# -- data for a model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name", "content", "words"),
    [
        ("flowers", "t.csv", "length,width,species\n1,2,rose\n", "'rose', which is none of those that were trained"),
        ("flowers", "t.csv", "length,width,species\n1,2,7\n", "7"),
        ("flowers", "t.csv", "length,width\n1,2\n", "has no column 'species' for the target"),
        ("flowers", "t.csv", "length,widht,species\n1,2,setosa\n", "no column 'width'.*did you mean 'widht'"),
        ("flowers", "t.csv", "length,width,more,species\n1,2,3,setosa\n", "has the column 'more'.*not trained on"),
        ("flowers", "t.csv", "length,width,species\n1,tall,setosa\n", "line 2, column 'width': 'tall' is not a num"),
        ("flowers", "t.npz", {"x": hole(1)[:, :1], "y": Y}, r"have shape \(1,\), but .* takes \(2,\)"),
        ("flowers", "t.npz", {"x": X, "y": Y}, "species"),
        ("flowers", "t.npz", {"x": np.ones((20, 2), np.uint8), "y": Y}, "bytes, as images, but .*trained on numbers"),
        ("prices", "t.csv", "area,age,price\n1,2,much\n", "'much'|price holds text"),
        ("prices", "t.csv", "area,age,price\n1,2,\n", "line 2, column 'price': the value is missing"),
        ("prices", "t.npz", {"x": X, "y": X}, "2 columns, but the model predicts 1"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_data_to_evaluate_on(model: str, name: str, content: Any, words: str, models: Path) -> None:
    put(name, content)
    refused(4, words, "evaluate", models / model, name)


@pytest.mark.parametrize("out", [[], ["-o", "out.csv"], ["-o", "out.npy"], ["-o", "new.csv"]], ids=str)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("length\n1\n", r"t\.csv has no column 'width', which the model was trained on"),
        ("length,width,height\n1,2,3\n", "has the column 'height', which the model was not trained on; remove or ren"),
        ("length,wdith\n1,2\n", "no column 'width'.*did you mean 'wdith'"),
        ("length,width\n1,\n", "line 2, column 'width': the value is missing"),
        ("length,width\n" + "1,2\n" * 40_000 + "1\n", "line 40002 has 1 fields"),
        ("length,width\n1,1e300\n", r"row 0 .*its value 1e\+300 is too far from"),
        ("length,width\n", "holds a header and no rows"),
        ("", "t.csv is empty"),
        ("1,2,3,4\n", "has no header"),
    ],
    ids=lambda value: value[:16],
)
def test_data_to_predict(content: str, words: str, out: list[str], models: Path) -> None:
    put("t.csv", content)
    refused(4, words, "predict", models / "flowers", "t.csv", *out)


# -- failures ----------------------------------------------------------------------------------------------------------


def newer(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'\\"format\\": 1') == 1
    path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"cannot read '.*model\.safetensors'"),
        (lambda path: path.write_bytes(b""), r"cannot read '.*model\.safetensors'"),
        (lambda path: path.write_text("a,b\n1,2\n"), "cannot read"),
        (lambda path: path.unlink(), r"cannot read '.*model\.safetensors'.*[Nn]o such file"),
        (newer, "has format 9, and this gpubp reads format 1; upgrade gpubp"),
        (flipped, "is damaged: its content does not match its checksum"),
    ],
)
def test_models_that_cannot_be_read(damage: Any, words: str, models: Path) -> None:
    Path("run").mkdir()
    Path("run/model.safetensors").write_bytes((models / "flowers" / "model.safetensors").read_bytes())
    damage(Path("run/model.safetensors"))
    data = models / "flowers.csv"
    refused(1, words, "evaluate", "run", data)
    refused(1, words, "predict", "run", data, "-o", "out.csv")
    refused(1, words, "export", "run", "-o", "out.onnx")


@pytest.mark.parametrize("folder", ["file", "file/run", "absent/" + "a" * 5000], ids=lambda value: value[:8])
def test_places_that_cannot_be_written_to(folder: str, models: Path) -> None:
    put("data.csv", csv())
    data, model = models / "flowers.csv", models / "flowers"
    if not folder.startswith("absent"):  # folders are made where there are none
        refused(1, f"{folder}.*choose another", "train", "data.csv", "-o", folder)
    refused(1, f"cannot write '{folder}/out.csv': ", "predict", model, data, "-o", f"{folder}/out.csv")
    refused(1, f"cannot write '{folder}/out.npz': ", "export", model, "-o", f"{folder}/out.npz")


def test_files_that_are_there_already() -> None:
    put("data.csv", csv())
    refused(1, r"'\.' holds .*config\.json.*choose another --out", "train", "data.csv", "-o", ".")
    assert Path("config.json").read_text() == "precious"


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(*_: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 30 GiB")

    monkeypatch.setattr("gpubp.cli.session.open_data", scarce)
    refused(1, "not enough memory: Unable to allocate 30 GiB; a smaller network", "train", "digits")


def test_a_training_that_diverges_leaves_not_even_the_folder_of_runs() -> None:
    put("data.csv", csv())
    refused(1, "training diverged", "train", "data.csv", "--optimizer", "sgd", "--lr", "1e30", "--batch-size", "1")


# -- going on ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(elsewhere: None) -> Path:
    put("data.csv", csv())
    assert CliRunner().invoke(main, ["train", "data.csv", "--epochs", "2", "-o", "run"]).exit_code == 0
    return Path("run/checkpoint.safetensors")


def test_checkpoints_that_cannot_be_resumed(run: Path) -> None:
    content = run.read_bytes()
    for damage, words in (
        (newer, "cannot resume from 'run/checkpoint.safetensors': its format is 9"),
        (flipped, "its content does not match its checksum"),
        (lambda path: path.write_bytes(content.replace(b'\\"adam\\"', b'\\"adaM\\"')), "does not match its checksum"),
        (lambda path: path.write_bytes(content[:-1]), "cannot read 'run/checkpoint.safetensors'"),
        (lambda path: path.write_bytes(Path("run/model.safetensors").read_bytes()), "no checkpoint that gpubp wrote"),
        (lambda path: path.unlink(), "'run' holds no checkpoint.safetensors: there is nothing to resume"),
        (lambda path: path.mkdir(), "it is no file"),
    ):
        damage(run)
        refused(1, words, "train", "--resume", "run", "--epochs", "3")
        if run.is_file():
            run.write_bytes(content)
    for folder in ("absent", "data.csv", run):
        refused(1, "holds no checkpoint", "train", "--resume", folder)


def test_a_checkpoint_that_was_written_from_python(run: Path) -> None:
    run.unlink()
    gpubp.MLP([2, 2], seed=0).fit(X, Y, epochs=1, callbacks=[gpubp.Checkpoint(run)], verbose=0)
    refused(1, "checkpoint in 'run' was written from Python", "train", "--resume", "run")


def test_what_else_is_not_resumed(run: Path) -> None:
    refused(2, "--seed 7 differs from the run to be resumed, which has 0", "train", "--resume", "run", "--seed", "7")
    put("other.csv", csv(2, 2, "v"))
    refused(4, "'other.csv' is not, or no longer, the file that 'run'", "train", "other.csv", "--resume", "run")
    if gpubp.get_backend("auto").fallback:
        refused(3, "device='cuda' is not available", "train", "--resume", "run", "--device", "cuda")
    Path("run/history.jsonl").unlink()
    Path("data.csv").unlink()
    refused(4, r"data\.csv: there is no such file", "train", "--resume", "run")
