"""The nets and batch sizes that the benchmarks of this checkout time."""

from dataclasses import dataclass

SEED = 1986


@dataclass(frozen=True)
class Cell:
    """One row of the table: a net and a batch size."""

    name: str
    sizes: tuple[int, ...]
    batch: int


CELLS = {
    cell.name: cell
    for cell in (
        Cell("64-32-32-10@32", (64, 32, 32, 10), 32),
        Cell("784-128-10@32", (784, 128, 10), 32),
        Cell("784-128-10@256", (784, 128, 10), 256),
        Cell("784-256-256-10@128", (784, 256, 256, 10), 128),
        Cell("784-512-256-10@128", (784, 512, 256, 10), 128),
        Cell("784-1024-1024-10@1024", (784, 1024, 1024, 10), 1024),
        Cell("784-64x8-10@4096", (784, *(64,) * 8, 10), 4096),
    )
}
