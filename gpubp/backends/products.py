"""Matrix products on a GPU by cuBLASLt: a plan for each shape, made once, the same bits in every run."""

import math
from typing import Any

from gpubp.backends.arguments import HALF, UnsuitableError, contiguous
from gpubp.backends.cublaslt import ALIGNED, WORKSPACE_BYTES, Product
from gpubp.kernel import Array

PRECISIONS = ("tf32", "bfloat16")  # beside that of the arrays
MOST_PLANS = 1024  # each is a few hundred bytes of the host's


class Products:
    """Those of one network on one device."""

    def __init__(self, cupy: Any, precision: str | None) -> None:
        self._cupy, self._precision = cupy, precision
        self._plans: dict[Any, Product] = {}
        self._workspaces: dict[bool, Array] = {}  # by `aside`
        self.aside = False  # whether products run at the same time as others

    def multiply(self, a: Array, b: Array, out: Array, alpha: Any = 1.0, beta: Any = 0.0) -> None:
        """out ← alpha a b + beta out; alpha and beta are both numbers, or both arrays of one on the device.

        UnsuitableError, with nothing launched, where the arrays have no elements or lie in other ways.
        """
        contiguous(out)
        flipped = (not a.flags.c_contiguous, not b.flags.c_contiguous)
        contiguous(*(each.T if flip else each for each, flip in zip((a, b), flipped, strict=True)))
        (m, k), n = a.shape, b.shape[1]
        if not m * n * k:
            raise UnsuitableError
        on_device = not isinstance(alpha, float)
        aligned = alignment(a), alignment(b), alignment(out)
        key = (a.dtype.char, out.dtype.char, m, n, k, flipped, on_device, aligned)
        product = self._plans.get(key)
        if product is None:
            if len(self._plans) >= MOST_PLANS:
                self._forget()
            product = Product(self._kind(a, out), m, n, k, transposed=flipped, scalars_on_device=on_device)
            self._plans[key] = product.plan(out.device.id, alignments=aligned)
        product(a, b, out, self._room(), self._cupy.cuda.get_current_stream(), (alpha, beta))

    def _kind(self, a: Array, out: Array) -> str:
        if a.dtype == HALF:
            return "bfloat16" if out.dtype == HALF else "bfloat16 to float32"
        return "tf32" if self._precision == "tf32" and out.dtype == "float32" else str(out.dtype.name)

    def _room(self) -> Array:
        if self.aside not in self._workspaces:
            self._workspaces[self.aside] = self._cupy.empty((WORKSPACE_BYTES,), "uint8")
        return self._workspaces[self.aside]

    def _forget(self) -> None:
        for product in self._plans.values():
            product.close()
        self._plans.clear()


def alignment(a: Array) -> int:
    """Bytes: that of its rows, so that where a batch begins among the rows of a data set makes no difference."""
    row = max(a.strides)
    return math.gcd(row, a.data.ptr, ALIGNED)
