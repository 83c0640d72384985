"""The CUDA source of one launch: a template of `kernels/` around the device function of a declared kernel.

How each argument reaches the device function is in its type, one of those in `kernels/arguments.cuh`: `In<float>` an
array, `Row<float>` a bias that is every row's, `Value<float>` a number.
"""

import functools
import hashlib
from typing import NamedTuple

from gpubp.kernel import SOURCES

THREADS = 256  # in a block, everywhere
COUNTS = {
    "elementwise": ("Size count", "Size width"),
    "rowwise": ("Size rows", "Size width"),
    "reduction": ("Size count", "Size width"),
    "columns": ("Size rows", "Size width", "Size block_rows"),
}


class Launch(NamedTuple):
    """What distinguishes one compiled kernel from another."""

    template: str  # a file of kernels/, and the function of that name in it
    function: str | None  # the device function; None adds up what is there
    source: str | None  # its file
    dtype: str  # "float" or "double": what T is, and what is computed with
    width: int  # of an access in elements or, of a rowwise kernel, the lanes that share a row
    parameters: tuple[tuple[str, str], ...]  # (type, name) of each argument

    @property
    def symbol(self) -> str:
        return f"gpubp_{self.function or self.template}"

    @property
    def text(self) -> str:
        totals = (f"{self.dtype}* totals",) if self.template in ("reduction", "columns") else ()
        given = (*COUNTS[self.template], *totals)
        names = [part.split()[-1] for part in given]
        arguments = [f"{name}_" for _, name in self.parameters]  # for one of them is called do
        return _kernel(
            self.symbol,
            [self.source, f"{self.template}.cuh"],
            [*given, *(f"{kind} {name}_" for kind, name in self.parameters)],
            f"{self.template}<{', '.join(self._constants())}>({', '.join([*names, self._body(), *arguments])});",
        )

    def _constants(self) -> list[str]:
        return [str(self.width)] + [str(THREADS)] * (self.template in ("reduction", "columns"))

    def _body(self) -> str:
        """The device function as something that a template can call."""
        if self.template == "rowwise":
            return f"[](auto team, auto&... row) {{ {self.function}<{self.dtype}>(team, row...); }}"
        if self.function:
            return f"[](auto&... each) {{ {self.function}<{self.dtype}>(each...); }}"
        if self.template == "reduction":
            return f"[]({self.dtype} each, {self.dtype}& total) {{ total += each; }}"
        return f"[]({self.dtype}) {{}}"


NUMBERS = 8  # that one launch of `numbers` passes


class RowLaunch(NamedTuple):
    """One of the templates in `kernels/rows.cuh`, which take plain pointers."""

    function: str  # its name
    element: str  # what a word of a row, or an output, is

    @property
    def symbol(self) -> str:
        return f"gpubp_{self.function}"

    @property
    def text(self) -> str:
        element = self.element
        step = ["const Size* numbers", "const Size* step"]
        state = [f"const {element}* table", "const unsigned* keys", f"{element}* now", "unsigned* keys_now"]
        parameters = {
            "gather": ["Size rows", "Size words", f"const {element}* from", "const Size* numbers"],
            "gather_step": ["Size rows", "Size words", "Size stride", f"const {element}* from", *step],
            "gather_halves": ["Size rows", "Size width", "Size stride", "const float* from", *step],
            "one_hot": ["Size rows", "Size width", "const Size* labels"],
            "one_hot_step": ["Size rows", "Size width", "Size stride", "const Size* labels", *step],
            "numbers": ["Size count", *(f"{element} v{i}" for i in range(NUMBERS))],
            "advance": ["Size steps", "Size count", "Size wholes", "Size* step", *state, f"const {element}* results"],
        }[self.function] + [f"{element}* out"]
        names = ", ".join(part.split()[-1] for part in parameters)
        return _kernel(self.symbol, ["rows.cuh"], parameters, f"{self.function}({names});")


def _kernel(symbol: str, headers: list[str | None], parameters: list[str], call: str) -> str:
    includes = "".join(f'#include "{header}"\n' for header in headers if header)
    return (
        f'{includes}extern "C" __global__ void __launch_bounds__({THREADS}) {symbol}({", ".join(parameters)}) {{\n'
        f"  {call}\n}}\n"
    )


@functools.cache
def headers() -> dict[str, str]:
    """All files of `kernels/`, by name."""
    files = sorted(file for file in SOURCES.iterdir() if file.name.endswith(".cuh"))
    return {file.name: file.read_text(encoding="utf-8") for file in files}


@functools.cache
def digest() -> str:
    """Of all of them, so that what was compiled from others is not taken for theirs."""
    return hashlib.sha256("\0".join(headers().values()).encode()).hexdigest()[:16]
