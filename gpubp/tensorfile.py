"""Tensor files: the metadata and tensors of a safetensors file, whatever its bytes are, within a bound on memory."""

import json
import zlib
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gpubp.errors import ModelFileError

CHECKSUM = "crc32"  # its key in a file
JSON_SLACK = 4 << 20  # bytes that the JSON of any file may take beyond 4 times its size
MOST_TENSORS = 10_000  # a layer has two


def read_tensors(path: str | PathLike[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """(metadata, tensors by name), the tensors as new arrays."""
    from safetensors import SafetensorError, safe_open

    try:
        file = Path(path)
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")  # a pipe would keep us waiting
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            for text in metadata.values():
                check_memory(text, file.stat().st_size)
            names = opened.keys()
            if len(names) > MOST_TENSORS:
                raise ValueError(f"it holds {len(names)} tensors, more than {MOST_TENSORS}")
            return metadata, {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:  # of types that NumPy lacks
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"cannot read {str(path)!r} as a safetensors file: {reason!s:.300}") from None


def checksum(text: str, tensors: dict[str, Any]) -> str:
    """The CRC-32 of a text and the tensors that go with it, so that no flipped bit goes unnoticed."""
    code = zlib.crc32(text.encode())
    for name in sorted(tensors):
        code = zlib.crc32(tensors[name].reshape(-1).view(np.uint8), code)
    return f"{code:08x}"


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for; ValueError also for what JSON forbids and Python's reader lets pass."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def check_memory(text: str, size: int) -> None:
    """Refuse JSON that Python might turn into more than 4 times its file's size, as `[[],[],` would be."""
    values = sum(map(text.count, "[{,:"))
    width = 5 if "\\u" in text else 2  # bytes a character: in the text, and in what is read from it
    if 45 * values + len(text) * width > 4 * size + JSON_SLACK:
        raise ValueError(f"its {len(text)} characters of JSON would take more memory than 4 times its {size} bytes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key occurs twice in a JSON object")
    return made


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
