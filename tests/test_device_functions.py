"""Every device function computes what its kernel's body does: compiled by g++, compared, and its mutants caught."""

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_arguments import OWN, SIZES, arguments, copies, ids, is_scalar, run

from gpubp.backends.cupy import pure_reads
from gpubp.kernel import SOURCES, Kernel

SOURCED = [kernel for kernel in OWN if kernel.source]
FUNCTION = re.compile(
    r"template\s*<typename T>\s*__device__\s+(?:inline\s+|__forceinline__\s+)*void\s+(\w+)\s*\(([^)]*)\)\s*\{(.*?)^\}",
    re.S | re.M,
)
# A number with a point or an exponent, other than directly inside T(...).
DOUBLE = re.compile(r"(?<!T\()(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?(?![\w.])")


def sources() -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in SOURCES.iterdir() if file.name.endswith(".cuh")}


def functions(text: str) -> dict[str, list[tuple[str, str]]]:
    """By name: the arguments of each device function, as (type, name)."""
    found = {}
    for name, given, _ in FUNCTION.findall(text):
        pairs = [re.fullmatch(r"\s*(T&?)\s*(\w+)\s*", part) for part in given.split(",")]
        assert all(pairs), f"{name}({given}): each argument is T by value or T& by reference"
        found[name] = [(match[1], match[2]) for match in pairs if match]
    return found


def test_registry_and_sources_agree() -> None:
    for file, text in sources().items():
        declared = {kernel.name: kernel for kernel in SOURCED if kernel.source == file}
        found = functions(text)
        assert text.count("__device__") - text.count("with __device__") == len(found), (
            "a function that this test cannot read"
        )
        assert set(found) == set(declared), file
        for name, kernel in declared.items():
            assert tuple(argument for _, argument in found[name]) == kernel.arguments
            assert {argument for kind, argument in found[name] if kind == "T&"} == set(kernel.writes)
    assert {kernel.source for kernel in SOURCED} <= set(sources())


def test_no_double_literals() -> None:
    """In a float kernel a bare 1.0 drags the expression into double."""
    for file, text in sources().items():
        code = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
        assert not DOUBLE.findall(code), file
    for bad in ("x = 1.0 * y", "y = 2. - x", "a + .5", "b * 1e-7", "c + 3.5e2"):
        assert DOUBLE.search(bad), bad
    for good in ("T(1)", "T(0.5)", "T(1e-7)", "x1 + 2", "1.0f"):
        assert not DOUBLE.search(good), good


C_TYPES = {np.float32: "float", np.float64: "double"}


def loop(kernel: Kernel, ctype: str, symbol: str, scope: str = "") -> str:
    """A C function that calls the device function on each element; one element's reads all come before its writes."""
    written = set(kernel.writes)
    params = ", ".join(f"{'' if name in written else 'const '}{ctype}* {name}" for name in kernel.arguments)
    call = ", ".join(f"{name}[i]" for name in kernel.arguments)
    return (
        f'extern "C" void {symbol}(long n, {params}) {{\n'
        f"  for (long i = 0; i < n; ++i) {scope}{kernel.name}<{ctype}>({call});\n}}\n"
    )


def compiled(folder: Path, text: str) -> ctypes.CDLL:
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(text, encoding="utf-8")
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-ffp-contract=off",
        "-Wall",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-shared",
        "-fPIC",
    ]
    done = subprocess.run(
        [*command, "-I", str(folder), "-o", str(library), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


HEAD = "#include <math.h>\n#define __device__\n"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("device")
    text = HEAD
    for file, code in sources().items():
        (folder / file).write_text(code, encoding="utf-8")
        text += f'#include "{file}"\n'
    for kernel in SOURCED:
        for ctype in C_TYPES.values():
            text += loop(kernel, ctype, f"{kernel.name}_{ctype}")
    return compiled(folder, text)


def call(library: ctypes.CDLL, symbol: str, args: list[Any]) -> None:
    pointer = ctypes.c_void_p
    getattr(library, symbol)(ctypes.c_long(args[0].size), *(pointer(a.ctypes.data) for a in args))


def flat(kernel: Kernel, n: int, dtype: Any, seed: int = 0) -> dict[str, Any]:
    """Arguments of n elements each, broadcast already, as a device function sees them."""
    args = arguments(kernel, n, 1, dtype, seed)
    shape = args[kernel.writes[0]].shape
    return {name: np.array(np.broadcast_to(np.asarray(arg, dtype), shape)) for name, arg in args.items()}


def both(
    kernel: Kernel, args: dict[str, Any], run_device: Callable[[list[Any]], None]
) -> Iterator[tuple[str, Any, Any]]:
    """Each written argument: its name, the device function's values, and the NumPy body's in float64."""
    truth = {name: arg.astype(np.float64) for name, arg in args.items()}
    run(kernel, truth)
    device = copies(args)
    run_device(list(device.values()))
    for name in kernel.writes:
        yield name, device[name], truth[name]


def agree(device: Any, truth: Any, dtype: Any, ulps: float = 8) -> bool:
    """Equal to some units in the last place of dtype, subnormals to their spacing, NaN with NaN."""
    info = np.finfo(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = truth.astype(dtype)
        ok = (device == rounded) | (np.isnan(device) & np.isnan(rounded))
        ok |= np.abs(device.astype(np.float64) - truth) <= np.maximum(
            ulps * info.eps * np.abs(truth), ulps * float(info.tiny) * info.eps
        )
    return bool(ok.all())


@pytest.mark.toolchain
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*SIZES, 65537])
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_computes_what_the_body_does(
    library: ctypes.CDLL, kernel: Kernel, size: int, dtype: Any
) -> None:
    assert kernel.kind == "elementwise", "this comparison calls device functions element by element"
    args = flat(kernel, size, dtype)
    for name, device, truth in both(kernel, args, lambda a: call(library, f"{kernel.name}_{C_TYPES[dtype]}", a)):
        assert agree(device, truth, dtype), name


@pytest.mark.toolchain
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_on_special_values(library: ctypes.CDLL, kernel: Kernel, dtype: Any) -> None:
    """All combinations of infinities, NaN, zeros, subnormals and huge numbers, against the body in the same dtype."""
    info = np.finfo(dtype)
    special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        30,
        -30,
        88.5,
        -88.5,
        709,
        -709,
        1e4,
        -1e4,
        info.tiny,
        -info.tiny,
        info.tiny / 4,
    ]
    special += [info.smallest_subnormal, info.max / 4, -info.max / 4, np.inf, -np.inf, np.nan]
    free = [name for name in kernel.reads if not is_scalar(kernel, name)]
    grid = np.meshgrid(*[np.array(special, dtype)] * len(free), indexing="ij")
    args = flat(kernel, grid[0].size, dtype)
    for name, values in zip(free, grid, strict=True):
        args[name][...] = values.reshape(args[name].shape)
    reference, device = copies(args), copies(args)
    run(kernel, reference)
    call(library, f"{kernel.name}_{C_TYPES[dtype]}", list(device.values()))
    for name in kernel.writes:
        with np.errstate(over="ignore"):
            assert agree(device[name], reference[name].astype(np.float64), dtype), name


@pytest.mark.toolchain
@pytest.mark.parametrize("kernel", SOURCED, ids=ids)
def test_a_device_function_may_write_over_an_input(library: ctypes.CDLL, kernel: Kernel) -> None:
    for output in (name for name in kernel.writes if name not in kernel.reads):
        for read in pure_reads(kernel):
            apart, shared = flat(kernel, 1023, np.float64), flat(kernel, 1023, np.float64)
            shared[output] = shared[read]
            for args in (apart, shared):
                call(library, f"{kernel.name}_double", list(args.values()))
            np.testing.assert_array_equal(shared[output], apart[output])


SWAPS = {"+": "-", "-": "+", "*": "+", "/": "*", "T(1)": "T(2)", "+ b": ""}


def mutants(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """(what changed, text) of the device function with one change: a sign, an operation, a factor, no bias."""
    for match in FUNCTION.finditer(kernel.code):
        if match[1] != kernel.name:
            continue
        head, body = match[0][: match.start(3) - match.start()], match[3] + "}\n"
        for old, new in SWAPS.items():
            for at in re.finditer(re.escape(old) + (r"\b" if old == "+ b" else ""), body):
                yield f"{old!r} → {new!r} at {at.start()}", head + body[: at.start()] + new + body[at.end() :]
        for factor in re.findall(r"\([^()]*(?:\([^()]*\))?[^()]*\) \* ", body):  # (1 − y) dropped
            yield f"{factor!r} dropped", head + body.replace(factor, "", 1)


@pytest.mark.toolchain
def test_every_mutant_of_a_device_function_is_caught(tmp_path: Path) -> None:
    text = HEAD
    made: list[tuple[Kernel, str, str]] = []
    for kernel in SOURCED:
        before = len(made)
        for change, code in mutants(kernel):
            scope = f"mutant{len(made)}"
            if code.count("(") != code.count(")"):
                continue
            text += f"namespace {scope} {{\n{code}\n}}\n" + loop(kernel, "double", scope + "_run", f"{scope}::")
            made.append((kernel, change, scope + "_run"))
        assert len(made) - before >= 3, f"{kernel.name} has too few mutants to prove anything"
    library = compiled(tmp_path, text)
    for kernel, change, symbol in made:
        args = flat(kernel, 1023, np.float64)
        same = [agree(d, t, np.float64) for _, d, t in both(kernel, args, partial(call, library, symbol))]
        assert not all(same), f"{kernel.name} with {change} passes the comparison"
    changes = [change for kernel, change, _ in made if kernel.name in ("bias_sigmoid", "sigmoid_delta")]
    assert any("+ b" in change for change in changes)
    assert any("dropped" in change and "y" in change for change in changes)
