"""Ten thousand damaged model files: each gives a ModelFileError or a network that works, soon and in little memory."""

import copy
import faulthandler
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubp

pytestmark = pytest.mark.check
MUTATIONS = 10_000
SECONDS = 600  # for all of them: they take 40 on one busy core
ALLOWANCE = 1 << 20  # bytes that loading any file may take beyond 4 times its size
# Stands for text that json.dumps would not write, and is replaced by it afterwards.
RAW = ["NaN", "-Infinity", "1e999", "9" * 5000, "[" * 3000 + "]" * 3000, '{"a": 1, "a": 2}', "0x10", "[1,]", "'a'"]
JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**63, 2**64, 10**9, 10**400, -(10**40)),
    *("", "0", "relu", "softmax", "cross_entropy", "float16", "F64", "é", "\ud800", "𝔘" * 50, "\0", "a" * 20_000),
    *([], {}, [[]], [0], [-1], [10**9, 10**9], [1] * 3000, {"name": "huber"}, {"name": []}, {"": {}}, [[[[1]]]]),
    *(f"@raw {number}@" for number in range(len(RAW))),
]


def networks() -> dict[str, gpubp.MLP]:
    """Between them they have all that a file can hold."""
    mask, rng = np.array([[1, 0, 1, 1, 0]] * 4), np.random.default_rng(1)
    nets = {
        "everything": gpubp.MLP(
            [4, 5, 3, 3],
            [gpubp.LeakyReLU(0.125), gpubp.ELU(0.7)],
            "softmax",
            gpubp.CrossEntropy(reduction="sum"),
            use_bias=[True, False, True],
            masks=[mask, None, None],
            dropout=[0.0, 0.3, 0.1],
            init=gpubp.Uniform(0.3),
            seed=2**40 + 3,
        ),
        "float64": gpubp.MLP([4, 30, 2], "gelu", "identity", gpubp.Huber(0.5), dtype="float64", seed=1),
        "one layer": gpubp.MLP([4, 1], output="sigmoid", use_bias=False, seed=2),
        "tabular": gpubp.MLP([4, 40, 3], "relu", masks=[rng.integers(0, 2, (4, 40)), None], seed=3),
    }
    nets["tabular"].metadata["preprocessing"] = {
        **{"task": "classification", "shape": [4], "shift": [0.25, -3.5, 1e6, 0.0], "scale": [1.0, 2.0, 1e-6, 0.5]},
        **{"features": ["width", "height", "größe", "年"], "target": "kind", "classes": ["a", "b", "ç"]},
        **{"target_shift": None, "target_scale": None},
    }
    return nets


Parts = tuple[dict[str, Any], dict[str, Any], bytes]  # the header without metadata, gpubp's state, and the data


def taken_apart(content: bytes) -> Parts:
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    state = json.loads(header.pop("__metadata__")["gpubp"])
    del state["crc32"]
    return header, state, content[start:]


def put_together(header: Any, state: Any, data: bytes, checksum: bool) -> bytes:
    """A file of these parts, with a checksum that is right, or none: otherwise it would hide what comes behind it."""
    text = raw(json.dumps(state))
    if checksum and isinstance(state, dict):
        code = zlib.crc32(data, zlib.crc32(text.encode()))
        text = text[:-1] + f', "crc32": "{code:08x}"}}'
    whole = {"__metadata__": {"gpubp": text}, **header} if isinstance(header, dict) else header
    described = raw(json.dumps(whole)).encode()
    return len(described).to_bytes(8, "little") + described + data


def raw(text: str) -> str:
    for number, replacement in enumerate(RAW):
        text = text.replace(f'"@raw {number}@"', replacement)
    return text


def bytes_changed(content: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes replaced, lost, inserted or doubled, or the end cut off; more often in the header."""
    header, changed = 8 + int.from_bytes(content[:8], "little"), bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = int(rng.integers(0, header if rng.random() < 0.7 else len(content)))
        few = int(rng.integers(1, 9))
        match rng.integers(7):
            case 0 | 1:
                changed[at : at + 1] = bytes([content[at] ^ 1 << int(rng.integers(8))])
            case 2:
                changed[at : at + 1] = rng.bytes(1)
            case 3:
                del changed[at : at + few]
            case 4:
                changed[at:at] = rng.bytes(few)
            case 5:
                changed[at:at] = changed[at : at + few]
            case 6:
                del changed[at:]
    return bytes(changed)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(container, key) of every value within a JSON value."""
    for key in list(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        found.append((value, key))
        places(value[key], found)
    return found


def json_changed(value: Any, rng: np.random.Generator) -> None:
    """One value, somewhere inside, replaced, taken away, doubled, exchanged for another, or called something else."""
    found = places(value, [])
    (container, key), (other, there) = (found[int(rng.integers(len(found)))] for _ in range(2))
    match rng.integers(8):
        case 0 | 1 | 2 | 3:
            container[key] = copy.deepcopy(JUNK[int(rng.integers(len(JUNK)))])
        case 4:
            del container[key]
        case 5 if isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        case 5:
            container[str(JUNK[int(rng.integers(len(JUNK)))])[:30]] = container.pop(key)
        case 6:
            container[key] = copy.deepcopy(other[there])
        case 7:
            container[key] = [copy.deepcopy(container[key])] * int(rng.integers(0, 4))


def mutated(contents: list[bytes], rng: np.random.Generator) -> bytes:
    content, another = (contents[int(rng.integers(len(contents)))] for _ in range(2))
    kind = rng.random()
    if kind < 0.4:
        return bytes_changed(content, rng)
    header, state, data = taken_apart(content)
    if kind < 0.5:
        other_header, other_state, other_data = taken_apart(another)
        parts = [(header, other_header), (state, other_state), (data, other_data)]
        header, state, data = (pair[int(rng.integers(2))] for pair in parts)
    elif kind < 0.6:
        json_changed(header, rng)
    elif kind < 0.65:
        huge = [int(n) for n in 10 ** rng.integers(0, 10, len(state["structure"]["sizes"]))]
        state["structure"]["sizes"] = huge
        for layer in range(len(huge) - 1):  # tensors that say so too
            header[f"{2 * layer}.weight"]["shape"] = huge[layer : layer + 2][::-1]
    for _ in range(rng.choice([1, 1, 2, 4]) if kind > 0.6 else 0):
        json_changed(state, rng)
    return put_together(header, state, data, rng.random() < 0.2)


def works(net: gpubp.MLP, path: Path) -> None:
    """A network from a damaged file can do what any network can, if only for the inputs that it says it has."""
    x = np.random.default_rng(0).normal(size=(3, net.sizes[0]))
    outputs = net.forward(x)
    assert outputs.shape == (3, net.sizes[-1])
    assert all(np.isfinite(weight).all() for weight in net.weights)
    try:
        net.fit(x, np.abs(outputs) / np.abs(outputs).sum(axis=1, keepdims=True), epochs=1, verbose=0)
    except (gpubp.DataError, gpubp.DivergenceError):  # outputs or gradients that are too large
        return
    net.save(path)
    again = gpubp.load(path, device="cpu")
    np.testing.assert_array_equal(net.forward(x), again.forward(x))
    assert again.metadata == net.metadata


@contextmanager
def watched() -> Iterator[None]:
    """End the process, with a traceback, when this takes too long; and trace the memory taken meanwhile."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        faulthandler.cancel_dump_traceback_later()


def loaded(path: Path, content: bytes) -> tuple[gpubp.MLP | None, int]:
    """The network, or None where it was refused; and how many bytes more than before were in use."""
    path.write_bytes(content)
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    net, message = None, ""
    try:
        net = gpubp.load(path, device="cpu")
    except gpubp.ModelFileError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    assert net is not None or (path.name in message and 50 < len(message) < 1000), message
    return net, peak - before


def test_mutations(tmp_path: Path) -> None:
    path, contents = tmp_path / "model.safetensors", []
    for net in networks().values():
        net.save(path)
        contents.append(path.read_bytes())
    refused, worst = 0, 0
    with watched():
        for content in contents:
            assert loaded(path, content)[0] is not None
        for number in range(MUTATIONS):
            content = mutated(contents, np.random.default_rng(number))
            try:
                net, peak = loaded(path, content)
                if net is not None:
                    works(net, path)
            except BaseException as error:
                raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}") from error
            refused += net is None
            worst = max(worst, peak - 4 * len(content))
    assert worst < ALLOWANCE
    assert 0.7 * MUTATIONS < refused < 0.98 * MUTATIONS, "both ways are tried"
    print(f"{refused} of {MUTATIONS} refused; at most {worst} bytes beyond 4 times a file's size")


def test_the_memory_of_a_large_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    gpubp.MLP([3500, 3500, 10], "relu", init=gpubp.Zeros(), device="cpu").save(path)
    content = path.read_bytes()
    assert len(content) > 49e6
    with watched():
        net, peak = loaded(path, content)
    assert net is not None
    assert peak < 3.1 * len(content), "parameters, their gradients, and one copy"


MILLION = 10**6
STATE = {"format": 1, **networks()["one layer"]._state()}
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def holding(value: str) -> bytes:
    """A model whose metadata hold this JSON."""
    content = put_together(
        {"0.weight": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}},
        {**STATE, "metadata": {"a": "@here@"}},
        bytes(16),
        checksum=False,
    ).replace(b'\\"@here@\\"', value.replace('"', '\\"').encode())
    return (len(content) - 24).to_bytes(8, "little") + content[8:]


def structured(header: dict[str, Any], data: bytes, **structure: Any) -> bytes:
    return put_together(header, {**STATE, "structure": {**STATE["structure"], **structure}}, data, checksum=False)


# Files of some megabytes that would take far more memory, or time, if they were believed.
BOMBS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: holding("[" + "[]," * MILLION + "0]"),
    "objects": lambda: holding("[" + "{}," * MILLION + "0]"),
    "numbers": lambda: holding("[" + "0.1," * MILLION + "0]"),
    "strings": lambda: holding("[" + '"ab",' * MILLION + "0]"),
    "depth": lambda: holding("[" * MILLION + "]" * MILLION),
    "tensors": lambda: structured({f"{number}.weight": EMPTY for number in range(60_000)}, b""),
    "axes": lambda: structured({"0.weight": {**EMPTY, "shape": [2**62] * 200_000}}, b""),
    "a mask": lambda: structured(
        {"0.weight": {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}}, bytes(16), masks=["A" * 4 * MILLION]
    ),
    "not finite": lambda: structured(
        {"0.weight": {"dtype": "F32", "shape": [1, 2 * MILLION], "data_offsets": [0, 8 * MILLION]}},
        np.full(2 * MILLION, np.nan, "<f4").tobytes(),
        sizes=[2 * MILLION, 1],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path) -> None:
    content = BOMBS[name]()
    with watched():
        net, peak = loaded(tmp_path / "model.safetensors", content)
    assert net is None
    assert peak < 4 * len(content) + ALLOWANCE
