"""The declaration of a kernel: its name, what it reads and writes, and a NumPy body, the reference for every device.

A kernel is declared once, by decorating its NumPy body; for speed on other devices a device function of the same name
may stand in `kernels/`. From the declaration follow the run on NumPy and on CuPy, the host-compiled parity test and
the benchmark row.

    @elementwise("dy, y -> dz", source="activations.cuh")
    def sigmoid_delta(xp, dy, y, dz, s): ...

The body's arguments are the array module, the names read, the names written that are not read too, and then `scratch`
arrays of the first output's shape. A name on both sides is updated in place. An output may be the same array as an
input.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpubp.errors import DataError

Array = Any  # a NumPy or CuPy array: which one is the backend's business
Body = Callable[..., object]


# The folder of device functions: installed as gpubp/kernels, and at the top of a checkout or an editable install. A
# path is looked up because importlib.resources would cost 13 ms of every import.
SOURCES = next(folder / "kernels" for folder in Path(__file__).parents[:2] if (folder / "kernels").is_dir())
KERNELS: dict[str, "Kernel"] = {}
UNWRITTEN = -12345.678  # what a rehearsal finds where a body wrote nothing


@dataclass(frozen=True, eq=False)
class Kernel:
    """One declared kernel; made by `elementwise`, `rowwise` or `reduction`."""

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    rows: frozenset[str]
    body: Body
    source: str | None
    scratch: int
    cuda: str | None = None
    arguments: tuple[str, ...] = field(init=False)
    shaped_like: int = field(init=False)  # the argument whose shape the scratch arrays and the row blocks take

    def __post_init__(self) -> None:
        arguments = self.reads + tuple(name for name in self.writes if name not in self.reads)
        shaped = (
            self.reads[0]
            if self.kind == "reduction"
            else next(name for name in self.writes if name in self.rows or not self.rows)
        )
        object.__setattr__(self, "arguments", arguments)
        object.__setattr__(self, "shaped_like", arguments.index(shaped))

    @property
    def code(self) -> str:
        """The text of the device function's file."""
        assert self.source is not None
        return (SOURCES / self.source).read_text(encoding="utf-8")

    def rehearse(self, *reads: Any) -> None:
        """Run the body once on 2 rows of 3; DataError if it fails, returns something or leaves an output as it was."""
        import numpy as np  # here, as declaring kernels needs no NumPy: `gpubp train --help` lists their names without

        given = [np.array(value) if isinstance(value, list) else value for value in reads]
        written = [
            np.full((2, 1 if self.rows and name not in self.rows else 3), UNWRITTEN)
            for name in self.arguments[len(given) :]
        ]
        try:
            with np.errstate(all="ignore"):
                result = self.body(np, *given, *written, *(np.empty((2, 3)) for _ in range(self.scratch)))
        except Exception as error:
            raise DataError(f"kernel {self.name!r} fails on rows of 3: {type(error).__name__}: {error}") from error
        if result is not None:
            raise DataError(f"kernel {self.name!r} returns a value; it must write into its outputs instead")
        for name, out in zip(self.arguments[len(given) :], written, strict=True):
            if (out == UNWRITTEN).all():
                raise DataError(
                    f"kernel {self.name!r} does not write {name!r}; write into the array it is given, "
                    f"such as {name}[...] = ... or xp.sin(z, out={name})"
                )


def _declare(
    kind: str, signature: str, source: str | None, scratch: int, cuda: str | None = None
) -> Callable[[Body], Kernel]:
    if not isinstance(signature, str):
        raise DataError(f'a kernel is declared with its signature, such as @gpubp.{kind}("dy, y -> dz")')
    sides = [[name.strip() for name in side.split(",")] for side in signature.split("->")]
    names = [name.removesuffix("[]") for side in sides for name in side]
    if len(sides) != 2 or not all(name.isidentifier() for name in names):
        raise DataError(f'kernel signature {signature!r} must read like "dy, y -> dz": names, an arrow, names')
    reads, writes = (tuple(name.removesuffix("[]") for name in side) for side in sides)
    if cuda is not None and (not isinstance(cuda, str) or not all(_assigns(cuda, name) for name in writes)):
        raise DataError(
            f'cuda={cuda!r} must be CUDA C++ that assigns {" and ".join(writes)}, such as "{writes[0]} = ..."'
        )
    rows = frozenset(name.removesuffix("[]") for side in sides for name in side if name.endswith("[]"))

    def declare(body: Body) -> Kernel:
        if not body.__name__.isidentifier():
            raise DataError(f"a kernel needs a named function as its body, got {body.__name__}; write it with def")
        kernel = Kernel(body.__name__, kind, reads, writes, rows, body, source, scratch, cuda)
        given = list(inspect.signature(body).parameters)[1:]
        if given[: len(kernel.arguments)] != list(kernel.arguments) or len(given) != len(kernel.arguments) + scratch:
            wanted = ", ".join(("xp", *kernel.arguments, *(f"scratch{i}" for i in range(scratch))))
            raise DataError(f"kernel {kernel.name!r} is declared {signature!r}, so its body must take ({wanted})")
        known = KERNELS.get(kernel.name)
        # The same function defined again (a notebook cell run twice) replaces itself; two functions of one name are a
        # mistake.
        if known and (known.body.__module__, known.body.__qualname__) != (body.__module__, body.__qualname__):
            raise DataError(
                f"kernel {kernel.name!r} is declared twice, "
                f"in {known.body.__module__} and {body.__module__}; rename one"
            )
        KERNELS[kernel.name] = kernel
        return kernel

    return declare


def _assigns(cuda: str, name: str) -> bool:
    return re.search(rf"\b{name}\s*[-+*/]?=(?!=)", cuda) is not None


def elementwise(
    signature: str, source: str | None = None, scratch: int = 0, cuda: str | None = None
) -> Callable[[Body], Kernel]:
    """Declare a kernel that computes each element of its outputs from the same element of its inputs.

    Inputs broadcast as in NumPy: a bias (W,) or a scalar beside arrays (N, W). `cuda` is the same in a line of CUDA C++
    for one element, with T for float or double, such as "dz = dy * y * (T(1) - y)" or, where z is updated too,
    "z += b; y = sin(z)"; without it the body runs on a GPU, an operation at a time.
    """
    return _declare("elementwise", signature, source, scratch, cuda)


def rowwise(signature: str, source: str | None = None, scratch: int = 0) -> Callable[[Body], Kernel]:
    """Declare a kernel that works on one row at a time.

    `name[]` is a row, a plain `name` one value a row, shape (N, 1), or a scalar.
    """
    return _declare("rowwise", signature, source, scratch)


def reduction(signature: str, source: str | None = None, scratch: int = 0) -> Callable[[Body], Kernel]:
    """Declare a kernel that sums whole arrays, in a fixed order, into 0-d outputs."""
    return _declare("reduction", signature, source, scratch)
