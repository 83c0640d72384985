"""Every device function computes what its kernel's body does: compiled by g++ and compared in float32 and float64."""

import ctypes
import itertools
import re
from typing import Any

import numpy as np
import pytest
from host_compared import agrees, agrees_on_specials, drawn
from host_compiled import C_TYPES, compiled, functions, includes, loop, run_compiled, sources
from kernel_arguments import OWN, WHOLE_NUMBERS, arguments, copies, ids, run

from gpubp.kernel import KERNELS, Kernel
from gpubp.layers import mix

DTYPES = pytest.mark.parametrize("dtype", C_TYPES, ids=C_TYPES.values())
# A number with a point or an exponent, other than directly inside T(...).
DOUBLE = re.compile(r"(?<!T\()(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?(?![\w.])")


def declared_type(kernel: Kernel, name: str) -> str:
    """What a device function's argument must be, by the conventions at the head of kernels/portable.cuh."""
    if kernel.kind == "rowwise" and name in kernel.rows:
        return "T*" if name in kernel.writes else "const T*"
    return ("unsigned" if name in WHOLE_NUMBERS else "T") + "&" * (name in kernel.writes)


def test_registry_and_sources_agree() -> None:
    assert {kernel.source for kernel in OWN} <= set(sources()), "each kernel of the library has a device function"
    for file in {str(kernel.source) for kernel in OWN}:
        text = sources()[file]
        found = functions(text)
        assert len(found) == text.count("__device__"), f"{file} has a function that this test cannot read"
        given = {f.name: f for f in found if f.returns == "void"}
        declared = {kernel.name: kernel for kernel in OWN if kernel.source == file}
        assert set(given) == set(declared), file
        for name, kernel in declared.items():
            wanted = [(declared_type(kernel, argument), argument) for argument in kernel.arguments]
            # do_ for do, which is a word of C++
            assert [(kind, argument.rstrip("_")) for kind, argument in given[name].arguments] == wanted, name
            assert given[name].takes_team == (kernel.kind == "rowwise"), name


def test_no_double_literals() -> None:
    """In a float kernel a bare 1.0 drags the expression into double."""
    for file, text in sources().items():
        code = re.sub(r"//[^\n]*|/\*.*?\*/|^.*inline double .*$", "", text, flags=re.M)
        assert not DOUBLE.findall(code), file
    for bad in ("x = 1.0 * y", "y = 2. - x", "a + .5", "b * 1e-7", "c + 3.5e2"):
        assert DOUBLE.search(bad), bad
    for good in ("T(1)", "T(0.5)", "T(1e-7)", "x1 + 2", "1.0f"):
        assert not DOUBLE.search(good), good


def symbol(kernel: Kernel, dtype: Any) -> str:
    return f"{kernel.name}_{C_TYPES[dtype]}"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    text = includes(OWN)
    for kernel, dtype in itertools.product(OWN, C_TYPES):
        text += loop(kernel, C_TYPES[dtype], symbol(kernel, dtype))
    return compiled(tmp_path_factory.mktemp("device"), text, "-O1", "-Wall", "-Werror")


# Each size as a column, as a row, or as several rows.
SHAPES = [(0, 3), (1, 1), (31, 1), (1, 31), (33, 3), (1, 1023), (65537, 1)]


@pytest.mark.toolchain
@DTYPES
@pytest.mark.parametrize("kernel", OWN, ids=ids)
def test_a_device_function_computes_what_the_body_does(library: ctypes.CDLL, kernel: Kernel, dtype: Any) -> None:
    for rows, width in [*SHAPES, (1, 65537)] if kernel.kind == "rowwise" else SHAPES:
        assert agrees(library, symbol(kernel, dtype), kernel, rows, width, dtype), f"{rows} x {width}"


@pytest.mark.toolchain
@DTYPES
@pytest.mark.parametrize("kernel", [k for k in OWN if k.kind != "reduction"], ids=ids)
def test_a_device_function_on_special_values(library: ctypes.CDLL, kernel: Kernel, dtype: Any) -> None:
    assert agrees_on_specials(library, symbol(kernel, dtype), kernel, dtype)


def aliases(kernel: Kernel) -> list[tuple[str, str]]:
    """(output, input) that may be one array: if rowwise those that a network gives, else any two of one shape."""
    args = arguments(kernel, 5, 3)
    pairs = [
        (out, read)
        for out, read in itertools.product(kernel.writes, kernel.reads)
        if out not in kernel.reads and read not in kernel.writes and np.shape(args[read]) == args[out].shape == (5, 3)
    ]
    return [pair for pair in pairs if kernel.kind == "elementwise" or pair in {("y", "z"), ("dz", "dy")}]


@pytest.mark.toolchain
@pytest.mark.parametrize(
    ("kernel", "output", "read"),
    [pytest.param(k, *pair, id=f"{k.name}-{pair[0]}-{pair[1]}") for k in OWN for pair in aliases(k)],
)
def test_a_device_function_may_write_over_an_input(
    library: ctypes.CDLL, kernel: Kernel, output: str, read: str
) -> None:
    apart, shared = drawn(kernel, 33, 31, np.float64), drawn(kernel, 33, 31, np.float64)
    shared[output] = shared[read]
    for args in (apart, shared):
        run_compiled(library, symbol(kernel, np.float64), kernel, args, np.float64)
    for name in kernel.writes:
        np.testing.assert_array_equal(shared[name], apart[name], err_msg=name)


@pytest.mark.toolchain
def test_the_bits_of_dropout(library: ctypes.CDLL) -> None:
    """An element stays at a threshold that is its number of 32 bits, and goes at the next."""
    kernel = KERNELS["dropout"]
    args = drawn(kernel, 33, 31, np.float32)
    numbers = [
        [mix(int(row) + int(column) + int(args["key"])) for column in args["column"]] for row in args["row"][:, 0]
    ]
    for more in (0, 1):
        args["threshold"] = np.array(numbers, np.uint32) + np.uint32(more)
        got = run_compiled(library, symbol(kernel, np.float32), kernel, args, np.float32)
        np.testing.assert_array_equal(got["y"] == 0, more == 1)


@pytest.mark.toolchain
@DTYPES
def test_gelu_far_out(library: ctypes.CDLL, dtype: Any) -> None:
    """Where z³ overflows, its derivative is still 0 or 1, in the body and on the device."""
    kernel = KERNELS["gelu_delta"]
    z = np.array([[-1.0], [1.0]], dtype) * np.array([50, 1e10, 1e15, 1e30, np.finfo(dtype).max], dtype)
    args = {"dy": np.full_like(z, 3), "z": z, "dz": np.empty_like(z)}
    for got in (run(kernel, copies(args)), run_compiled(library, symbol(kernel, dtype), kernel, args, dtype)):
        np.testing.assert_array_equal(got["dz"], np.broadcast_to([[0.0], [3.0]], z.shape))
