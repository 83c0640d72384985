"""What a batch takes of a device's memory, so that one that cannot fit is refused before it has filled it."""

from itertools import pairwise

USABLE = 0.9  # the share of the free memory that arrays may take: every library needs some besides
CHECKED = 24  # bytes a parameter, on the CPU, of the one contender that is held against the float64 reference


def too_large(sizes: tuple[int, ...], batch: int, kind: str, contenders: int, free: int) -> str | None:
    """Why so many contenders have no room for this batch at the same time, estimated; None if they have."""
    parameters = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
    fixed = parameters * (8 * contenders + (CHECKED if kind == "cpu" else 0))  # float32, with their gradients
    # The inputs; of each layer its output, its delta and a third array; the label, and what draws the row.
    each = contenders * (4 * (sizes[0] + 3 * sum(sizes[1:])) + 32)
    usable = int(USABLE * free)
    if free == 0 or fixed + batch * each <= usable:
        return None
    rows = max(0, usable - fixed) // each
    rows -= rows % 10 ** max(0, len(str(rows)) - 2)  # two digits are as much as an estimate is worth
    fits = f"the largest batch that fits has about {rows:,} rows" if rows else "no batch of so large a network fits"
    takes = f"{contenders} contenders need about {size(fixed + batch * each)} of memory"
    return f"{takes} and {size(usable)} can be had; {fits}"


def size(count: int | None) -> str:
    """Bytes, for people.

    >>> size(1536), size(3 * 2**30), size(None)
    ('2 KiB', '3.0 GiB', '-')
    """
    if count is None:
        return "-"
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << power:
            value = count / (1 << power)
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{count / 1024:.0f} KiB"
