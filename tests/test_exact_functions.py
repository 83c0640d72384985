"""The exact functions of kernels/exact.cuh: how near the truth they are, and the same bits from every compilation."""

import ctypes
import platform
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from host_compiled import compiled, includes, loop
from kernel_arguments import OWN

from gpubp.backends.compiler import OPTIONS, processor_flags
from gpubp.kernel import SOURCES

pytestmark = pytest.mark.toolchain

LEAST, TINY, MOST = 2.0**-149, 2.0**-126, float(np.finfo(np.float32).max)  # LEAST is subnormal
INF, NAN = float("inf"), float("nan")
SAME = ((0.0, 0.0), (-0.0, -0.0), (LEAST, LEAST), (-LEAST, -LEAST))


class Exact(NamedTuple):
    """What is promised of a function."""

    truth: Callable[[Any], Any]  # in float64
    cpp: str  # the same of v in C++
    ulps: float  # units in the last place that it may be off, as kernels/exact.cuh says
    ranges: tuple[tuple[float, float], ...]  # outside it is a constant, x itself, or the other sign's mirror image
    special: tuple[tuple[float, float], ...]
    back: int = 0  # units that it may go back from one number to the next
    falls: bool = False  # for x > 0
    below: float = 0.0  # that a subnormal result may be off, if not so many units


FUNCTIONS = {
    "sigmoid": Exact(
        *(lambda x: 1 / (1 + np.exp(-x)), "1 / (1 + exp(-v))", 2.49),
        ranges=((2.0**-26, 104), (-104, -(2.0**-26))),
        special=((-INF, 0), (INF, 1), (0.0, 0.5), (NAN, NAN)),
        back=1,
        below=TINY,
    ),
    "exact_exp": Exact(
        *(np.exp, "exp(v)", 0.91),
        ranges=((2.0**-26, 88.72283), (-104, -(2.0**-26))),
        special=((-INF, 0), (-104, 0), (0.0, 1), (88.72284, INF), (INF, INF), (NAN, NAN)),
        back=1,
    ),
    "exact_expm1": Exact(
        *(np.expm1, "expm1(v)", 1.46),
        ranges=((2.0**-27, 88.72283), (-20, -(2.0**-27))),
        special=(*SAME, (-INF, -1), (88.72284, INF), (INF, INF), (NAN, NAN)),
    ),
    "exact_tanh": Exact(
        *(np.tanh, "tanh(v)", 1.37),
        ranges=((2.0**-14, 20),),
        special=(*SAME, (-INF, -1), (INF, 1), (NAN, NAN)),
    ),
    "exact_log": Exact(
        *(np.log, "log(v)", 0.93),
        ranges=((LEAST, MOST),),
        special=((0.0, -INF), (-0.0, -INF), (1, 0.0), (INF, INF), (-LEAST, NAN), (-1, NAN), (-INF, NAN), (NAN, NAN)),
    ),
    "log_one_plus_exp": Exact(
        *(lambda x: np.log1p(np.exp(-np.abs(x))), "log1p(exp(-v))", 1.94),
        ranges=((2.0**-26, 104),),
        special=((-INF, 0), (INF, 0), (NAN, NAN)),
        back=1,
        falls=True,
    ),
}


def many(name: str, symbol: str, scope: str = "") -> str:
    """A C function: that of each number of an array."""
    return (
        f'extern "C" void {symbol}(Size n, const float* x, float* y) {{\n'
        f"#pragma GCC ivdep\n  for (Size i = 0; i < n; ++i) y[i] = {scope}{name}(x[i]);\n}}\n"
    )


ALL = '#include "exact.cuh"\n' + "".join(many(name, name) for name in FUNCTIONS)


def results(library: ctypes.CDLL, symbol: str, x: Any) -> Any:
    y = np.empty_like(x)
    getattr(library, symbol)(ctypes.c_longlong(x.size), *(ctypes.c_void_p(a.ctypes.data) for a in (x, y)))
    return y


def patterns(step: int) -> Any:
    """Numbers of every sign and exponent."""
    return np.arange(0, 2**32, step, np.uint32).view(np.float32)


def same(a: Any, b: Any) -> bool:
    """The same bits, the signs of zeros included; but a NaN is a NaN."""
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


# What may not be missing or otherwise: each change makes another function, which the checks below must refuse.
CHANGES = {
    "exact_exp": [
        ("1.44269504f", "1.5f"),
        ("-0.693145752f", "-0.6931f"),
        ("-1.42860677e-6f", "0.0f"),
        ("1.38143124e-3f", "0.0f"),
        ("8.36885069e-3f", "8.2e-3f"),
        ("4.16684002e-2f", "4.16e-2f"),
        ("1.66665196e-1f", "1.6666e-1f"),
        ("4.99999940e-1f", "5.0001e-1f"),
        ("<< 23", "<< 22"),
        ("x > 104.0f ? 104.0f : ", ""),
        ("x < -104.0f ? -104.0f : x", "x"),
        ("x > 104.0f", "!(x <= 104.0f)"),
        ("? WHOLE - 64.0f", "? WHOLE - 63.0f"),
        ("WHOLE + 64.0f", "WHOLE"),
        ("1.84467441e19f", "1.8446e19f"),
        ("5.42101086e-20f", "5.421e-20f"),
    ],
    "sigmoid": [
        ("z > 70.0f ? 70.0f : ", ""),
        ("z < -104.0f ? -104.0f : z", "z"),
        ("z < -104.0f ? -104.0f : z", "z < -104.0f ? -88.0f : z"),
        ("z > 70.0f", "!(z <= 70.0f)"),  # NaN becomes 1
        ("scaled_exp(-z", "scaled_exp(z"),
        ("__fadd_rn(scale, ", "("),
    ],
    "exact_expm1": [
        ("x > 89.0f ? 89.0f : ", ""),
        ("x < -80.0f ? -80.0f : x", "x"),
        ("89.0f ? 89.0f", "88.0f ? 88.0f"),
        ("WHOLE - 1.0f", "WHOLE"),
        ("e.r), e.r);", "e.r), 0.0f);"),
        ("fabs(x) < 2.98023224e-8f ? x : ", ""),
        ("2.98023224e-8f", "1e-4f"),
    ],
    "exact_tanh": [
        ("-5.69229620e-3f", "0.0f"),
        ("2.06281673e-2f", "2.0e-2f"),
        ("-5.37365153e-2f", "-5.36e-2f"),
        ("1.33314058e-1f", "1.333e-1f"),
        ("-3.33332807e-1f", "-3.3333e-1f"),
        ("size > 10.0f ? 20.0f : ", ""),
        ("10.0f ? 20.0f", "8.0f ? 16.0f"),
        ("copysign(size < 0.625f ? near : far, x)", "size < 0.625f ? near : far"),
        ("size < 0.625f", "size < 0.8f"),
        ("size < 0.625f ? near : ", ""),
    ],
    "exact_log": [
        ("-7.63643906e-2f", "0.0f"),
        ("1.27622172e-1f", "1.2e-1f"),
        ("-1.31596103e-1f", "-1.3e-1f"),
        ("1.42015800e-1f", "1.41e-1f"),
        ("-1.66234091e-1f", "-1.661e-1f"),
        ("2.00012416e-1f", "2.0e-1f"),
        ("-2.50008196e-1f", "-2.5e-1f"),
        ("3.33333313e-1f", "3.3333e-1f"),
        ("p, f, -0.5f", "p, f, -0.4999f"),
        ("__fmul_rn(x, 8388608.0f)", "x"),
        ("? -23.0f", "? -22.0f"),
        ("0x3f3504f3", "0x3f800000"),
        ("1.19209290e-7f", "1.19209e-7f"),
        ("n, 1.42860677e-6f", "n, 0.0f"),
        ("n, 0.693145752f", "n, 0.693147f"),
        ("x < infinity<float>() ? y : x", "y"),
        ("x == 0.0f ? -infinity<float>() : ", ""),
        ("x > 0.0f ? (", "true ? ("),
    ],
    "log_one_plus_exp": [
        ("exact_exp(-fabs(x))", "exact_exp(fabs(x))"),
        ("u > 0.414213562f", "u > 0.6f"),
        ("u, -0.5f", "u, -0.4999f"),
        ("0.693147181f", "0.6931f"),
    ],
}
CHANGED = [(name, old, new) for name, changes in CHANGES.items() for old, new in changes]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    exact = (SOURCES / "exact.cuh").read_text(encoding="utf-8")
    bare = "\n".join(line for line in exact.splitlines() if not line.startswith("#"))
    text = ALL
    for number, (name, old, new) in enumerate(CHANGED):
        assert bare.count(old) == 1, old
        text += f"namespace other{number} {{\n{bare.replace(old, new)}\n}}\n"
        text += many(name, f"changed{number}", f"other{number}::")
    return compiled(tmp_path_factory.mktemp("exact"), text, "-O1")


@cache
def sample(name: str, step: int) -> tuple[Any, Any, Any]:
    """Numbers, the truth of them, and how much may be off."""
    exact, moderate = FUNCTIONS[name], np.arange(0, 120, 0.01).astype(np.float32)
    x = np.concatenate([patterns(step), moderate, -moderate])
    x = x[np.isfinite(x)]
    with np.errstate(all="ignore"):
        truth = exact.truth(x.astype(np.float64))
        unit = np.spacing(np.abs(truth.astype(np.float32))).astype(np.float64)
    return x, truth, np.where(np.abs(truth) < TINY, exact.below or exact.ulps * LEAST, exact.ulps * unit)


def is_exact(library: ctypes.CDLL, name: str, symbol: str, step: int = 199_999) -> bool:
    """On numbers of every sign and exponent, in pairs of neighbours, and on the special ones."""
    exact = FUNCTIONS[name]
    special, wanted = np.array(exact.special, np.float32).T.copy()
    if not same(results(library, symbol, special), wanted):
        return False
    x, truth, allowed = sample(name, step)
    y, following = results(library, symbol, x), results(library, symbol, np.nextafter(x, np.float32(INF)))
    with np.errstate(all="ignore"):
        beyond = (y == truth.astype(np.float32)) | (np.isnan(y) & np.isnan(truth))  # infinite, or not defined
        forward = np.where(exact.falls & (x >= 0), y - following, following - y)
        close = np.abs(y - truth) <= allowed
        onward = ~(forward < -exact.back * np.spacing(np.abs(y)))
    return bool((close | beyond).all() and onward.all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_of_all_numbers(library: ctypes.CDLL, name: str) -> None:
    assert is_exact(library, name, name, 19_997)


@pytest.mark.parametrize("number", range(len(CHANGED)), ids=lambda n: "{}: {} to {}".format(*CHANGED[n]))
def test_any_other_function_is_refused(library: ctypes.CDLL, number: int) -> None:
    assert not is_exact(library, CHANGED[number][0], f"changed{number}")


def needs(*flags: str) -> None:
    if not set(flags) <= set(processor_flags().split()):
        pytest.skip(f"this processor has no {' '.join(flags)}")


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (("-O0",), ()),
        (OPTIONS, ()),
        ((*OPTIONS, "-march=x86-64-v3"), ("avx2", "fma")),
        ((*OPTIONS, "-march=x86-64-v4"), ("avx512dq", "avx512vl")),
    ],
    ids=["one by one", "for this processor", "AVX2", "AVX-512"],
)
def test_every_compilation_gives_the_same_bits(
    library: ctypes.CDLL, tmp_path: Path, options: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    """With fmaf of the C library, with the processor's, a number at a time or sixteen."""
    needs(*flags)
    other, x = compiled(tmp_path, ALL, *options), patterns(9_973)
    for name in FUNCTIONS:
        assert same(results(other, name, x), results(library, name, x)), name


VECTORISED = re.compile(r"shim\.cpp:(\d+):\d+: optimized: loop vectorized using 32 byte vectors")


@pytest.mark.check
@pytest.mark.skipif(platform.machine() != "x86_64", reason="it asks for AVX2")
def test_every_elementwise_kernel_is_vectorised(tmp_path: Path) -> None:
    """By g++, with the options of native kernels: nothing in a device function branches or calls."""
    kernels = [kernel for kernel in OWN if kernel.kind == "elementwise"]
    text = includes(kernels)
    lines = {}
    for kernel in kernels:
        lines[kernel.name] = text.count("\n") + 3
        text += loop(kernel, "float", kernel.name).replace("  for (", "#pragma GCC ivdep\n  for (")
    (tmp_path / "shim.cpp").write_text(text, encoding="utf-8")
    # Of two functions that do the same, -fno-ipa-icf compiles both.
    options = [*OPTIONS, "-march=x86-64-v3", "-fno-ipa-icf", "-fopt-info-vec-optimized", f"-I{SOURCES}"]
    command = ["g++", *options, "-c", "shim.cpp"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    found = {int(number) for number in VECTORISED.findall(done.stderr)}
    assert not [name for name, line in lines.items() if line not in found]


# The truth is compiled apart, with -ffast-math, which lets g++ use a vector library, exact to a few units of float64.
TRUTH = """
#include <math.h>
extern "C" void {name}_truth(int n, const float* x, double* t) {{
  for (int i = 0; i < n; ++i) {{
    const double v = x[i];
    t[i] = {cpp};
  }}
}}
"""
SCAN = r"""
#include <algorithm>
#include <cstdint>
#include <cstdio>
const int BLOCK = 4096;
static float x[BLOCK], ys[BLOCK + 1], *const y = ys + 1;  // before the first the last of the block before
static double t[BLOCK];
static int in_order(float value) {
  const int bits = int(__float_as_uint(value));
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
template <float (*function)(float), typename Truth>
void scan(Truth truth, unsigned first, unsigned last, double ulps, double below, int way, int back) {
  long off = 0, backwards = 0;
  for (int64_t start = first; start <= last; start += BLOCK) {
    const int n = std::min<int64_t>(BLOCK, last - start + 1);
    for (int i = 0; i < n; ++i) x[i] = __uint_as_float(unsigned(start) + i);
    for (int i = 0; i < n; ++i) y[i] = function(x[i]);
    truth(n, x, t);
    if (start == first) ys[0] = y[0];
    for (int i = 0; i < n; ++i) {
      double size = fabs(t[i]), error = fabs(y[i] - t[i]);
      uint64_t exponent;
      memcpy(&exponent, &size, 8);
      exponent &= 0x7ff0000000000000;
      memcpy(&size, &exponent, 8);
      off += error <= (size < 0x1p-126 ? below : ulps * 0x1p-23 * size) ? 0 : 1;
      backwards += way * (in_order(y[i]) - in_order(ys[i])) < -back ? 1 : 0;
    }
    ys[0] = y[n - 1];
  }
  std::printf("%ld %ld\n", off, backwards);
}
int main() {
"""


def bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


@pytest.mark.check
def test_all_numbers(tmp_path: Path) -> None:
    """It takes some twenty seconds."""
    truths = "".join(TRUTH.format(name=name, cpp=exact.cpp) for name, exact in FUNCTIONS.items())
    declared = "".join(f'extern "C" void {name}_truth(int, const float*, double*);\n' for name in FUNCTIONS)
    calls, asked = "", []
    for name, exact in FUNCTIONS.items():
        for low, high in exact.ranges:
            first, last = sorted((bits(low), bits(high)))  # from 0 outwards
            below, way = exact.below or exact.ulps * LEAST, -1 if exact.falls or high < 0 else 1
            numbers = f"{first}u, {last}u, {exact.ulps}, {below.hex()}, {way}, {exact.back}"
            calls += f"  scan<{name}>({name}_truth, {numbers});\n"
            asked.append(f"{name} from {low} to {high}")
    (tmp_path / "truth.cpp").write_text(truths, encoding="utf-8")
    (tmp_path / "scan.cpp").write_text('#include "exact.cuh"\n' + declared + SCAN + calls + "}\n", encoding="utf-8")
    for command in (
        ["g++", "-O3", "-march=native", "-ffast-math", "-c", "truth.cpp"],
        ["g++", *OPTIONS, f"-I{SOURCES}", "scan.cpp", "truth.o", "-o", "scan"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./scan"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == dict.fromkeys(asked, "0 0")
