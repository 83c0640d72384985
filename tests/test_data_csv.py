"""CSV: what is written is what is read, and what cannot be used is refused with its line and its column."""

import csv
import io
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubp.data import cells, csv_table, rows
from gpubp.data.files import Source, open_data
from gpubp.errors import DataError, GpubpError

IRIS = "length,width,species\n5.1,3.5,setosa\n7.0,3.2,versicolor\n6.3,-3e-1,setosa\n"


def write(folder: Path, text: str | bytes, name: str = "some.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def holds_iris(source: Source) -> None:
    np.testing.assert_array_equal(source.train.x, [[5.1, 3.5], [7.0, 3.2], [6.3, -0.3]])
    assert source.train.x.dtype == np.float64
    assert source.train.y.tolist() == ["setosa", "versicolor", "setosa"]
    assert source.features == ["length", "width"]
    assert (source.target, source.test, source.peak) == ("species", None, None)


@pytest.mark.parametrize(
    "text",
    [
        IRIS,
        IRIS.replace(",", ";"),
        IRIS.replace(",", "\t"),
        IRIS.replace("\n", "\r\n"),
        IRIS.replace("\n", "\r"),
        IRIS.rstrip("\n"),
        IRIS + "\n\n \n",
        "\ufeff" + IRIS,
        IRIS.replace(",", " , "),
        IRIS.replace("setosa", '"setosa"'),
        IRIS.replace("5.1", '"5.1"'),
    ],
)
def test_one_table_in_many_dialects(tmp_path: Path, text: str) -> None:
    source = open_data(write(tmp_path, text, "Schwertlilien ü.csv"))
    holds_iris(source)
    assert source.name == "Schwertlilien ü"
    assert source.sha256 == sha256(text.encode()).hexdigest()


def test_a_delimiter_is_known_by_the_second_line_too(tmp_path: Path) -> None:
    source = open_data(write(tmp_path, "length;width (mm, cm or so, dm);species\n5.1;3.5;setosa\n"))
    assert source.features == ["length", "width (mm, cm or so, dm)"]


def test_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(IRIS.encode())))
    source = open_data("-")
    holds_iris(source)
    assert source.name == "stdin"
    assert source.sha256 == sha256(IRIS.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "features", "rows_read"),
    [
        ("1,2,a\n3,4,b\n", ["0", "1"], 2),
        ("1,2,a\n", ["0", "1"], 1),
        ("u,v,a\n3,4,b\n", ["u", "v"], 1),
        ("1,v,a\n3,4,b\n", ["1", "v"], 1),
        ("0,1,class\n3,4,b\n", ["0", "1"], 1),
    ],
)
def test_a_header_is_told_by_text_above_numbers(tmp_path: Path, text: str, features: list[str], rows_read: int) -> None:
    source = open_data(write(tmp_path, text))
    assert source.features == features
    assert len(source.train.x) == rows_read
    assert ("no header" in (source.chosen or "")) == ("class" not in text and "v" not in text)


# Which columns are what


@pytest.mark.parametrize(
    ("header", "target", "found", "chosen"),
    [
        ("a,b,c", None, "c", "the target is 'c', the last column"),
        ("a,Label,c", None, "Label", "the target is 'Label', by its name"),
        ("y,b,c", None, "y", "the target is 'y', by its name"),
        ("y,class,c", None, "c", "the last column"),
        ("a,b,c", "a", "a", None),
        ("a,b,c", "0", "a", None),
        ("a,b,c", "-2", "b", None),
        ("a,0,c", "0", "0", None),
    ],
)
def test_the_target(tmp_path: Path, header: str, target: str | None, found: str, chosen: str | None) -> None:
    source = open_data(write(tmp_path, header + "\n1,2,3\n4,5,6\n"), target=target)
    names = header.split(",")
    assert source.target == found
    assert source.features == [name for name in names if name != found]
    assert source.train.y.tolist() == [1 + names.index(found), 4 + names.index(found)]
    assert (chosen or "None") in str(source.chosen)


@pytest.mark.parametrize("target", ["3", "-4", "spezies", "1_0"])
def test_a_target_that_is_not_there(tmp_path: Path, target: str) -> None:
    with pytest.raises(DataError, match=rf"some\.csv has no column '{target}'.*known: length, width, species"):
        open_data(write(tmp_path, IRIS), target=target)
    with pytest.raises(DataError, match="did you mean 'species'"):
        open_data(write(tmp_path, IRIS), target="spezies")


def test_a_models_columns_are_found_in_any_order(tmp_path: Path) -> None:
    data = write(tmp_path, "species,width,length\nx,3.5,5.1\ny,3.2,7.0\n")
    source = open_data(data, "species", ["length", "width"])
    np.testing.assert_array_equal(source.train.x, [[5.1, 3.5], [7.0, 3.2]])
    assert source.features == ["length", "width"]
    assert source.train.y.tolist() == ["x", "y"]
    assert open_data(data, "species", ["length", "width"], needs_target=False).train.y is None


def test_predictions_need_no_target_and_do_not_look_at_it(tmp_path: Path) -> None:
    for text in ("width,length\n3.5,5.1\n", "width,species,length\n3.5,NA,5.1\n"):
        source = open_data(write(tmp_path, text), "species", ["length", "width"], needs_target=False)
        assert source.train.x.tolist() == [[5.1, 3.5]]
        assert source.train.y is None
    unnamed = open_data(write(tmp_path, "a,label,b\n1,x,2\n"), needs_target=False)
    assert (unnamed.features, unnamed.train.x.tolist()) == (["a", "b"], [[1, 2]])
    assert "'label', by its name" in (unnamed.chosen or "")
    assert open_data(write(tmp_path, "a,b\n1,2\n"), needs_target=False).features == ["a", "b"]


def test_columns_without_names_are_told_by_their_number(tmp_path: Path) -> None:
    features = ["1", "2"]  # the target was column 0
    with_target = open_data(write(tmp_path, "7,1,2\n8,3,4\n"), "0", features)
    without_target = open_data(write(tmp_path, "1,2\n3,4\n"), "0", features, needs_target=False)
    for source in (with_target, without_target):
        assert source.train.x.tolist() == [[1, 2], [3, 4]]
    assert with_target.train.y.tolist() == [7, 8]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("length,species\n1,a\n", "has no column 'width', which the model was trained on; .*known: length, species"),
        ("length,Width,species\n1,2,a\n", "has no column 'width'.* did you mean 'Width'"),
        (
            "length,width,widht,species\n1,2,3,a\n",
            "'widht', which the model was not trained on; .*did you mean 'width'",
        ),
        ("1,2,a\n", "has no header.* length, width"),
        ("length,width\n1,2\n", "has no column 'species' for the target"),
    ],
)
def test_other_columns_than_the_models_are_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"some\.csv.* {words}"):
        open_data(write(tmp_path, text), "species", ["length", "width"])


def test_an_input_cannot_be_the_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the target 'width' is one of the model's inputs"):
        open_data(write(tmp_path, "length,width\n1,2\n"), "width", ["length", "width"])


def test_a_wide_table_does_not_list_all_its_columns(tmp_path: Path) -> None:
    names = [f"pixel{i}" for i in range(784)]
    with pytest.raises(DataError, match="did you mean 'pixel783'") as caught:
        open_data(write(tmp_path, ",".join(names) + "\n" + ",".join("0" * 784) + "\n"), target="pixel_783")
    assert len(str(caught.value)) < 1000


def test_a_line_may_be_longer_than_a_field(tmp_path: Path) -> None:
    width = 20_000
    data = write(tmp_path, ",".join(f"column{i}" for i in range(width)) + ("\n" + ",".join(["0.5"] * width)) * 2)
    assert open_data(data).train.x.shape == (2, width - 1)


# What is refused


def broken(line: int, cell: str, column: int = 0) -> str:
    """A table of 3,000 lines with this cell in one of them."""
    table = [["length", "width", "species"], *([str(i / 2), "0.5", "ab"[i % 2]] for i in range(2, 3001))]
    table[line - 1][column] = cell
    return "\n".join(",".join(row) for row in table)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n\n", "is empty, or begins with a blank line"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n\n", "a header and no rows"),
        ("target\n1\n", "no column but 'target'"),
        ("a,b,a\n1,2,3\n", "the columns 0 and 2 .*'a'"),
        (",b,c\n1,2,3\n", "column 0 .*has no name.*index=False"),
        (broken(1500, "1.5,0"), "line 1500 has 4 fields, but the first line has 3"),
        (broken(2999, "x\n0"), "line 2999 has 1 fields"),
        (broken(1500, "", 1), "line 1500, column 'width': the value is missing"),
        (broken(1500, "\n0"), "line 1500 is blank"),
        *((broken(1500, m), "line 1500, column 'length': the value is missing") for m in sorted(cells.MISSING)),
        *((broken(1500, m, 2), "line 1500, column 'species': the value is missing") for m in sorted(cells.MISSING)),
        (broken(1500, "inf"), "line 1500, column 'length': 'inf' is not finite"),
        (broken(1500, "1e999"), "line 1500, column 'length': '1e999' is not finite"),
        (broken(1500, "-Infinity", 2), "line 1500, column 'species': '-Infinity' is not finite"),
        (broken(2, "1_000"), "line 2, column 'length': '1_000' is not a number"),
        (broken(2, "tall"), "line 2, column 'length': 'tall' is not a number; encode"),
        (broken(1500, "0x10"), "line 1500, column 'length': '0x10' is not a number"),
        (broken(2, "1,5").replace(",", ";").replace("1;5", "1,5"), "line 2, column 'length': '1,5' .*write 1.5"),
        (broken(1500, "a" * 1001, 2), "line 1500, column 'species': a text of 1001 characters"),
        (broken(1500, '"x', 1), "line 1500: unexpected end of data"),
        (broken(1500, '"x"y', 1), "line 1500: ',' expected after '\"'"),
        (broken(1500, "x\0y", 2), "line 1500: this is no text"),
        (broken(1500, "x\udcff", 2).encode(errors="surrogateescape"), "no text in UTF-8"),
        (IRIS.encode("utf-16"), "no text in UTF-8"),
        (np.random.default_rng(0).bytes(5000), "no text"),
        ('a,"' + "b" * 200_000 + '"\n1,2\n', "field larger than field limit"),
    ],
    ids=lambda value: None if isinstance(value, bytes) or len(value) > 100 else value,
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=rf"some\.csv.*{words}"):
        open_data(write(tmp_path, text))


def test_names_that_are_known_make_a_header(tmp_path: Path) -> None:
    data = write(tmp_path, "a,species\nx,setosa\n")
    for features in (["a"], None):
        with pytest.raises(DataError, match="line 2, column 'a': 'x' is not a number"):
            open_data(data, "species", features)


@pytest.mark.parametrize("text", ["a,b\n1,2\n\n3,4\n", "a,b\n1,2\n\n\n3,4\n5,6\n", "a\n1\n\n3\n"])
@pytest.mark.parametrize("cells_at_once", [2, 20_000])
def test_a_blank_line_is_refused_wherever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cells_at_once: int
) -> None:
    monkeypatch.setattr(csv_table, "CELLS_AT_ONCE", cells_at_once)
    with pytest.raises(DataError, match="line 3 is blank"):
        open_data(write(tmp_path, text), needs_target=False)


@pytest.mark.parametrize("lines", [2, 300])
def test_a_line_is_counted_as_an_editor_counts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr(csv_table, "CELLS_AT_ONCE", 9)  # 3 lines, so that records go over the end
    text = 'a,"b\nb",c\n' + '1,2,"x\ny"\n' * (lines - 1) + "1,,z\n"
    with pytest.raises(DataError, match=rf"line {2 * lines + 1}, column 'b\\nb'"):
        open_data(write(tmp_path, text))


def test_a_line_longer_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "LONGEST_LINE", 1000)
    with pytest.raises(DataError, match="line 2: this is no text"):
        open_data(write(tmp_path, "a,b\n" + "1" * 2000))


# Targets of numbers, of text, and of both


@pytest.mark.parametrize(
    ("cells_in_file", "expected"),
    [
        (["1", "2", "10"], [1.0, 2.0, 10.0]),
        (["1", "1.0", "01"], [1.0, 1.0, 1.0]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["001", "1_0", "1"], ["001", "1_0", "1"]),
        ([" a b ", "ü", "a b"], ["a b", "ü", "a b"]),
        (["none", "mild", "none"], ["none", "mild", "none"]),
    ],
)
def test_targets_are_numbers_if_all_are(tmp_path: Path, cells_in_file: list[str], expected: list[Any]) -> None:
    y = open_data(write(tmp_path, "a,b\n" + "".join(f"1,{cell}\n" for cell in cells_in_file))).train.y
    assert y.tolist() == expected
    assert y.dtype.kind == ("U" if isinstance(expected[0], str) else "f")


def test_text_among_many_numbers_is_a_mistake(tmp_path: Path) -> None:
    for text in (broken(1500, "3,5", 0).replace("a\n", "1\n"), "a,b\n1,x\n" + "".join(f"1,{i}\n" for i in range(99))):
        with pytest.raises(DataError, match=r"line (1500 has 4|2, column 'b': 'x' is not a number)"):
            open_data(write(tmp_path, text))


def test_a_target_of_very_many_numbers_and_one_of_very_many_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "MOST_CLASSES", 100)
    monkeypatch.setattr(csv_table, "CELLS_AT_ONCE", 60)
    column = cells.TargetColumn()
    column.append([str(i) for i in range(101)], str)
    assert column.codes == {}  # nothing grows any more but the numbers themselves
    numbers = [i / 8 for i in range(5000)]
    text = "a,b\n" + "".join(f"1,{value}\n" for value in numbers)
    assert open_data(write(tmp_path, text)).train.y.tolist() == numbers
    with pytest.raises(DataError, match="line 5002, column 'b': 'late' is not a number"):
        open_data(write(tmp_path, text + "1,late\n"))
    with pytest.raises(DataError, match="line 102, column 'b': this is the 101th different text"):
        open_data(write(tmp_path, "a,b\n" + "".join(f"1,t{i}\n" for i in range(200))))


# Size


@pytest.mark.parametrize("targets", [["a", "bc"], [0.5, 7.0]], ids=["text", "numbers"])
def test_what_is_too_large_for_memory_comes_from_disk_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: list[Any]
) -> None:
    data = write(tmp_path, "u,v,w\n" + "".join(f"{i / 2},{i % 7},{targets[i % 2]}\n" for i in range(999)))
    inside = open_data(data)
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    monkeypatch.setattr(csv_table, "CELLS_AT_ONCE", 100)
    outside = open_data(data)
    for small, large in ((inside.train.x, outside.train.x), (inside.train.y, outside.train.y)):
        np.testing.assert_array_equal(small, large)
        assert isinstance(large, np.memmap)
        assert not isinstance(small, np.memmap)
    assert inside.sha256 == outside.sha256


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    monkeypatch.setattr("tempfile.TemporaryFile", partial(open, "/dev/full", "wb"))
    with pytest.raises(GpubpError, match="No space left on device; set TMPDIR"):
        open_data(write(tmp_path, broken(2, "7")))


# Whatever csv.writer writes

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def texts(delimiter: str) -> st.SearchStrategy[str]:
    """Neither numbers nor missing values, without the other delimiters, and without the \\r that csv does not quote."""
    excluded = "".join({",", ";", "\t", "\r", "\0"} - {delimiter})
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=excluded), min_size=1, max_size=8)
    return text.map(str.strip).filter(lambda text: text not in cells.MISSING and cells.number(text) is None)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_csv_writes_is_read(tmp_path: Path, data: st.DataObject) -> None:
    delimiter = data.draw(st.sampled_from(",;\t"))
    names = data.draw(st.lists(texts(delimiter), min_size=2, max_size=5, unique=True))
    classes = data.draw(st.lists(texts(delimiter), min_size=1, max_size=3))
    length = data.draw(st.integers(1, 8))
    x = [[data.draw(NUMBERS) for _ in names[1:]] for _ in range(length)]
    y = [data.draw(st.sampled_from(classes)) for _ in range(length)]
    path = tmp_path / "some.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(
            file,
            delimiter=delimiter,
            quoting=data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
            lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])),
        )
        writer.writerow(names)
        writer.writerows([*row, label] for row, label in zip(x, y, strict=True))
    source = open_data(str(path), target=names[-1])
    assert (source.features, source.target) == (names[:-1], names[-1])
    assert source.train.x.tolist() == x
    assert source.train.y.tolist() == y
