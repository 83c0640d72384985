"""What the tests of kernels share: arguments for any declared kernel, a run of its body, sizes and names."""

from gpubp.kernel import Kernel
from gpubp.specimens import BROADCAST, OWN, WHOLE_NUMBERS, arguments, copies, is_scalar, run

__all__ = ["BROADCAST", "OWN", "SIZES", "WHOLE_NUMBERS", "arguments", "copies", "ids", "is_scalar", "run", "shapes"]

SIZES = (0, 1, 31, 33, 1023)


def ids(kernel: Kernel) -> str:
    return kernel.name


def shapes(size: int) -> list[tuple[int, int]]:
    return [(size, 1), (1, size), (size, 3)] if size else [(0, 1), (0, 3)]
