"""The exact sigmoid of kernels/exact.cuh: within 3 units in the last place of float64's, and as good as monotone."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_compiled import compiled

from gpubp.kernel import SOURCES

ULPS, DROP = 3, 2  # allowed: units from the truth; units by which the next number's sigmoid may be smaller
# All negative numbers, from -infinity up. Nearer 0 than 2^-26 the sigmoid is 1/2, below -104 it is 0, and exp is saved.
SCAN = r"""
#include <algorithm>
#include <cmath>
#include <cstdio>
#include "exact.cuh"
int main() {
  double worst = 0, below = 0;
  int drop = 0;
  float previous = 0;
  for (unsigned bits = 0xff800000; bits >= 0x80000000; --bits) {
    const float z = __uint_as_float(bits), y = sigmoid(z);
    if (y < previous) drop = std::max(drop, int(__float_as_uint(previous) - __float_as_uint(y)));
    previous = y;
    const double truth = z < -104 ? 0 : z > -0x1p-26f ? 0.5 : 1 / (1 + std::exp(-double(z)));
    const double error = std::fabs(y - truth);
    if (truth >= 0x1p-126) worst = std::max(worst, error * std::ldexp(1, 23 - std::ilogb(truth)));
    else below = std::max(below, error);
  }
  std::printf("%.3f %d %a\n", worst, drop, below);
}
"""


@pytest.mark.check
@pytest.mark.toolchain
def test_all_negative_numbers(tmp_path: Path) -> None:
    """It takes half a minute."""
    source, program = tmp_path / "scan.cpp", tmp_path / "scan"
    source.write_text(SCAN, encoding="utf-8")
    # The processor's own fused multiply-add, where it has one, gives the same bits sooner.
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-march=native", "-I", str(SOURCES)]
    subprocess.run(["g++", *options, "-o", str(program), str(source)], check=True)
    ulps, drop, below = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
    assert float(ulps) <= ULPS
    assert int(drop) <= DROP
    assert float.fromhex(below) <= 2.0**-126


def many(name: str, scope: str = "") -> str:
    """A C function: the sigmoid of each number of an array."""
    return (
        f'extern "C" void {name}(Size n, const float* z, float* y) {{\n'
        f"  for (Size i = 0; i < n; ++i) y[i] = {scope}sigmoid(z[i]);\n}}\n"
    )


# What may not be missing or otherwise: each change makes another function, which the check below must refuse.
CHANGES = [
    ("z > 70.0f ? 70.0f : ", ""),
    ("z < -104.0f ? -104.0f : ", ""),
    ("z < -104.0f ? -104.0f", "z < -104.0f ? -88.0f"),
    ("z > 70.0f", "!(z <= 70.0f)"),  # NaN becomes 1
    ("1.44269504f", "1.5f"),
    ("-0.693145752f", "-0.6931f"),
    ("-1.42860677e-6f", "0.0f"),
    ("1.38143124e-3f", "0.0f"),
    ("8.36885069e-3f", "8.2e-3f"),
    ("4.16684002e-2f", "4.16e-2f"),
    ("1.66665196e-1f", "1.6666e-1f"),
    ("4.99999940e-1f", "5.0001e-1f"),
    ("<< 23", "<< 22"),
    ("scaled_exp(-z, ", "scaled_exp(z, "),
    ("__fadd_rn(scale, ", "("),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    exact = (SOURCES / "exact.cuh").read_text(encoding="utf-8")
    bare = "\n".join(line for line in exact.splitlines() if not line.startswith("#"))
    text = '#include "exact.cuh"\n' + many("exact")
    for number, (old, new) in enumerate(CHANGES):
        assert bare.count(old) == 1, old
        text += f"namespace other{number} {{\n{bare.replace(old, new)}\n}}\n"
        text += many(f"changed{number}", f"other{number}::")
    return compiled(tmp_path_factory.mktemp("exact"), text, "-O1", "-Wall", "-Werror")


def sigmoids(library: ctypes.CDLL, name: str, z: Any) -> Any:
    y = np.empty_like(z)
    getattr(library, name)(ctypes.c_longlong(z.size), *(ctypes.c_void_p(a.ctypes.data) for a in (z, y)))
    return y


def is_exact(library: ctypes.CDLL, name: str) -> bool:
    """On numbers of every sign and exponent, in pairs of neighbours, and on the special ones."""
    patterns = np.arange(0, 0x7F800000, 199_999, np.uint32).view(np.float32)
    moderate = np.arange(0, 120, 0.01).astype(np.float32)
    z = np.concatenate([patterns, -patterns, moderate, -moderate])
    y, above = sigmoids(library, name, z), sigmoids(library, name, np.nextafter(z, np.float32(np.inf)))
    with np.errstate(over="ignore"):
        truth = 1 / (1 + np.exp(-z.astype(np.float64)))
    unit = np.maximum(np.spacing(truth.astype(np.float32)).astype(np.float64), np.finfo(np.float32).smallest_subnormal)
    normal = truth >= np.finfo(np.float32).tiny
    close = np.abs(y - truth) <= np.where(normal, ULPS * unit, 2.0**-126)
    rising = above.view(np.int32) - y.view(np.int32) >= -DROP
    special = sigmoids(library, name, np.array([-np.inf, np.inf, 0, np.nan], np.float32))
    return bool(close.all() and rising.all()) and np.array_equal(special, [0, 1, 0.5, np.nan], equal_nan=True)


@pytest.mark.toolchain
def test_a_sample_of_all_numbers(library: ctypes.CDLL) -> None:
    assert is_exact(library, "exact")


@pytest.mark.toolchain
@pytest.mark.parametrize("number", range(len(CHANGES)), ids=lambda n: " to ".join(CHANGES[n]))
def test_any_other_function_is_refused(library: ctypes.CDLL, number: int) -> None:
    assert not is_exact(library, f"changed{number}")
