"""Matrix products on a GPU by cuBLASLt: a plan for each shape, made once, the same bits in every run."""

import math
from typing import Any

from gpubp.backends.arguments import HALF, UnsuitableError, contiguous
from gpubp.backends.autotune import Choices, wanted
from gpubp.backends.cublaslt import ALIGNED, WORKSPACE_BYTES, CublasLtError, Product
from gpubp.kernel import Array, Kernel

# Kernels of a bias and an activation that cuBLASLt can do with the product, and what is in z for the way back.
EPILOGUES = {"bias_identity": "BIAS", "bias_relu": "RELU_BIAS", "bias_gelu": "GELU_AUX_BIAS"}
PRECISIONS = ("tf32", "bfloat16")  # beside that of the arrays
MOST_PLANS = 1024  # each is a few hundred bytes of the host's


class Products:
    """Those of one network on one device."""

    def __init__(self, cupy: Any, precision: str | None, device: int = 0) -> None:
        self._cupy, self._precision = cupy, precision
        self.choices = Choices(cupy, device) if wanted() else None
        self._plans: dict[Any, Product | None] = {}  # None where cuBLASLt has none
        self._workspaces: dict[bool, Array] = {}  # by `aside`
        self.aside = False  # whether products run at the same time as others

    def multiply(self, a: Array, b: Array, out: Array, alpha: Any = 1.0, beta: Any = 0.0) -> None:
        """out ← alpha a b + beta out; alpha and beta are both numbers, or both arrays of one on the device.

        UnsuitableError, with nothing launched, where the arrays have no elements or lie in other ways.
        """
        scalars = (alpha, beta)
        product = self._planned(a, b, out, scalars, scalars_on_device=not isinstance(alpha, float))
        product(a, b, out, self._room(), self._cupy.cuda.get_current_stream(), scalars)

    def multiply_and_run(self, kernel: Kernel, a: Array, b: Array, z: Array, bias: Array, y: Array) -> None:
        """y ← f(a b + bias) as the kernel has it, and into z what it writes there, in the product itself.

        UnsuitableError, with nothing launched, where cuBLASLt has no such product, and where what it computes need not
        be what the kernel does: nothing is documented of its tanh but that it is an approximation.
        """
        epilogue = EPILOGUES.get(kernel.name)
        saved = epilogue == "GELU_AUX_BIAS"
        if epilogue is None or y.dtype == HALF or saved is (z is y) or (saved and self._precision != "tf32"):
            raise UnsuitableError
        options = {"epilogue": epilogue, "bias": bias.data.ptr}
        options |= {"aux": z.data.ptr, "aux_ld": z.shape[1]} if saved else {}
        product = self._planned(a, b, y, None, **options)
        product(a, b, y, self._room(), self._cupy.cuda.get_current_stream())

    def _planned(self, a: Array, b: Array, out: Array, scalars: Any, **options: Any) -> Product:
        """The product for arrays that lie like these."""
        contiguous(out)
        flipped = (not a.flags.c_contiguous, not b.flags.c_contiguous)
        contiguous(*(each.T if flip else each for each, flip in zip((a, b), flipped, strict=True)))
        (m, k), n = a.shape, b.shape[1]
        if not m * n * k:
            raise UnsuitableError
        aligned = alignment(a), alignment(b), alignment(out)
        key = (a.dtype.char, out.dtype.char, m, n, k, flipped, aligned, *options.values())
        if key not in self._plans:
            if len(self._plans) >= MOST_PLANS:
                self._forget()
            product = Product(self._kind(a, out), m, n, k, transposed=flipped, **options)
            try:
                if self.choices is None:
                    product.plan(out.device.id, alignments=aligned)
                else:
                    ways = "".join("NT"[flip] for flip in flipped) + "".join(f" {each}" for each in aligned)
                    added = " added" if options.get("scalars_on_device") else ""
                    name = f"{self._kind(a, out)} {m}x{n}x{k} {ways}{added} {options.get('epilogue', '')}".strip()
                    self.choices.choose(name, product, aligned, (a, b, out, self._room()), scalars)
                self._plans[key] = product
            except CublasLtError:
                product.close()
                if "epilogue" not in options:
                    raise
                self._plans[key] = None
        if (found := self._plans[key]) is None:
            raise UnsuitableError
        return found

    def _kind(self, a: Array, out: Array) -> str:
        if a.dtype == HALF:
            return "bfloat16" if out.dtype == HALF else "bfloat16 to float32"
        return "tf32" if self._precision == "tf32" and out.dtype == "float32" else str(out.dtype.name)

    def _room(self) -> Array:
        if self.aside not in self._workspaces:
            self._workspaces[self.aside] = self._cupy.empty((WORKSPACE_BYTES,), "uint8")
        return self._workspaces[self.aside]

    def _forget(self) -> None:
        for product in filter(None, self._plans.values()):
            product.close()
        self._plans.clear()


def alignment(a: Array) -> int:
    """Bytes: that of its rows, so that where a batch begins among the rows of a data set makes no difference."""
    row = max(a.strides)
    return math.gcd(row, a.data.ptr, ALIGNED)
