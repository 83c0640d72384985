"""Device functions compiled by g++ for this machine, and called on NumPy arrays as their kernels' bodies are."""

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernel_arguments import BROADCAST, WHOLE_NUMBERS, is_scalar

from gpubp.kernel import SOURCES, Kernel

C_TYPES = {np.float32: "float", np.float64: "double"}
FUNCTION = re.compile(r"^(?:template <[^>]*>\n)?__device__ inline [^\n]*(?:\{[^\n]*\}|\{\n.*?^\})\n", re.M | re.S)
HEAD = re.compile(
    r"(?:template <typename T(?:, typename Team)?>\n)?__device__ inline (?P<returns>\w+) (?P<name>\w+)"
    r"\((?P<arguments>[^)]*)\) \{"
)
# A row's only lane; in a float kernel a double function would drag the expression into double.
TEAM = """
namespace host {
struct Team {
  static constexpr int lanes = 1;
  int lane;
  Size width;
  template <typename T> T sum(T value) const { return value; }
  template <typename T> T max(T value) const { return value; }
};
}
""" + "".join(
    f'static_assert(sizeof({name}(0.f)) == 4, "{name} of a float is one");\n'
    for name in ("exp", "expm1", "fabs", "log", "log1p", "sqrt", "tanh")
)


@dataclass(frozen=True)
class Function:
    """A function of kernels/: one that returns nothing is a kernel's, any other helps those."""

    name: str
    returns: str
    takes_team: bool
    arguments: tuple[tuple[str, str], ...]  # (type, name), without the team
    text: str

    @property
    def body(self) -> str:
        return self.text[self.text.index("{") :]


def functions(text: str) -> list[Function]:
    found = []
    for match in FUNCTION.finditer(text):
        if head := HEAD.match(match[0]):  # all but explicit specializations
            pairs = [part.strip().rsplit(" ", 1) for part in head["arguments"].split(",") if part.strip()]
            named = tuple((kind, name) for kind, name in pairs if kind != "Team")
            found.append(Function(head["name"], head["returns"], len(named) < len(pairs), named, match[0]))
    return found


def sources() -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in SOURCES.iterdir() if file.name.endswith(".cuh")}


def includes(kernels: list[Kernel]) -> str:
    """The files of these kernels' device functions, and what calls them needs."""
    return "".join(f'#include "{name}"\n' for name in sorted({str(kernel.source) for kernel in kernels})) + TEAM


def loop(kernel: Kernel, ctype: str, symbol: str, scope: str = "") -> str:
    """A C function that calls the device function on each element or, by a team of one, on each row."""
    parameters = ", ".join(f"{_type(name, ctype)}* {name}_" for name in kernel.arguments)
    team = "host::Team{0, width}, " if kernel.kind == "rowwise" else ""
    given = ", ".join(_given(kernel, name) for name in kernel.arguments)
    zero = "".join(f"  *{name}_ = 0;\n" for name in kernel.writes if kernel.kind == "reduction")
    return (
        f'extern "C" void {symbol}(Size rows, Size width, {parameters}) {{\n{zero}'
        f"  for (Size i = 0; i < rows; ++i) {scope}{kernel.name}<{ctype}>({team}{given});\n}}\n"
    )


def _type(name: str, ctype: str) -> str:
    return "const unsigned" if name in WHOLE_NUMBERS else ctype


def _given(kernel: Kernel, name: str) -> str:
    if kernel.kind == "reduction" and name in kernel.writes:
        return f"*{name}_"
    if kernel.kind == "rowwise" and is_scalar(kernel, name):
        return f"*{name}_"
    if name in kernel.rows:
        return f"{name}_" if BROADCAST.get(name) == "row" else f"{name}_ + i * width"
    return f"{name}_[i]"


def compiled(folder: Path, text: str, *options: str) -> ctypes.CDLL:
    source, library = folder / "shim.cpp", folder / "shim.so"
    source.write_text(text, encoding="utf-8")
    command = ["g++", "-std=c++17", "-ffp-contract=off", "-Wno-unknown-pragmas", *options, "-shared", "-fPIC"]
    done = subprocess.run(
        [*command, "-I", str(SOURCES), "-o", str(library), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def run_compiled(library: ctypes.CDLL, symbol: str, kernel: Kernel, args: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """The written arguments after a run of the device function on these arguments, which it writes into."""
    like = args[kernel.arguments[kernel.shaped_like]]
    given = {name: _array(kernel, name, arg, like.shape, dtype) for name, arg in args.items()}
    rows = like.size if kernel.kind == "elementwise" else len(like)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in given.values()]
    getattr(library, symbol)(ctypes.c_longlong(rows), ctypes.c_longlong(like.shape[-1] if rows else 0), *pointers)
    return {name: given[name] for name in kernel.writes}


def _array(kernel: Kernel, name: str, arg: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """The argument itself where the loop can take it, else a copy: broadcast, or of a number."""
    array = np.asarray(arg, np.uint32 if name in WHOLE_NUMBERS else dtype)
    if kernel.kind == "elementwise" and array.shape != shape:
        array = np.ascontiguousarray(np.broadcast_to(array, shape))
    assert array.flags.c_contiguous
    return array
