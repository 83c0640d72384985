"""Predictions as files: CSV and NPY, written some rows at a time, or one JSON object."""

import csv
import json
from collections.abc import Iterable
from io import StringIO
from typing import Any, BinaryIO

import numpy as np

Chunks = Iterable[tuple[Any, Any]]  # predictions (n,) or (n, outputs), and probabilities (n, classes) or None


def write_csv(file: BinaryIO, heading: list[str], chunks: Chunks) -> int:
    """A heading, and a line for each row, in UTF-8; returns how many rows there were."""
    rows = 0
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    for predictions, probabilities in chunks:
        lines = _cells(predictions)
        if probabilities is not None:
            lines = [[*left, *right] for left, right in zip(lines, _cells(probabilities), strict=True)]
        writer.writerows(lines)
        _hand_over(text, file)
        rows += len(predictions)
    _hand_over(text, file)
    return rows


def _hand_over(text: StringIO, file: BinaryIO) -> None:
    file.write(text.getvalue().encode())
    file.flush()
    text.seek(0)
    text.truncate()


def _cells(values: Any) -> list[list[Any]]:
    """The cells of each row: numbers with as many digits as their type has, and no more."""
    if values.dtype == np.float32:
        values = values.astype(str)
    cells: list[list[Any]] = values.reshape(len(values), -1).tolist()
    return cells


def write_npy(file: BinaryIO, rows: int, chunks: Chunks) -> int:
    """One array: the probabilities where there are some, else the predictions."""
    for number, (predictions, probabilities) in enumerate(chunks):
        values = np.ascontiguousarray(predictions if probabilities is None else probabilities)
        if number == 0:
            shape, descr = (rows, *values.shape[1:]), np.lib.format.dtype_to_descr(values.dtype)
            header = {"shape": shape, "descr": descr, "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(values.tobytes())
    return rows


def write_json(file: BinaryIO, chunks: Chunks) -> int:
    """{"predictions": [...]}, and "probabilities" where there are some."""
    predictions: list[Any] = []
    probabilities: list[Any] = []
    for decided, shares in chunks:
        predictions += _numbers(decided)
        probabilities += [] if shares is None else _numbers(shares)
    result = {"predictions": predictions, **({"probabilities": probabilities} if probabilities else {})}
    file.write(json.dumps(result, allow_nan=False).encode() + b"\n")
    return len(predictions)


def _numbers(values: Any) -> list[Any]:
    """As plain Python's, a float32 with no more digits than it has."""
    numbers: list[Any] = (values.astype(str).astype(np.float64) if values.dtype == np.float32 else values).tolist()
    return numbers
