"""Pictures in a terminal: a grey image in half-blocks, two pixels a character, with the network's opinion beside it."""

from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

SMALL = 16  # pixels: a narrower image is drawn at twice its size
LARGE = 64  # pixels: a wider one would not fit beside its neighbour
BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def half_blocks(image: Any, colour: bool) -> Text:
    """An image of values from 0 to 1, bright on dark: in greys, or in black and white where there are no colours."""
    scale = 2 if image.shape[1] <= SMALL else 1
    pixels = np.kron(image, np.ones((scale, scale)))
    pixels = pixels[: len(pixels) // 2 * 2]
    text = Text()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            if colour:
                text.append("▀", style=f"{_grey(top)} on {_grey(bottom)}")
            else:
                text.append(BLOCKS[bool(top >= 0.5), bool(bottom >= 0.5)])
        text.append("\n")
    text.rstrip()
    return text


def _grey(value: float) -> str:
    level = round(255 * min(max(float(value), 0.0), 1.0))
    return f"rgb({level},{level},{level})"


def opinion(probabilities: Any, truth: int, names: list[str], count: int = 3) -> Text:
    """The likeliest classes and the true one, each with a bar."""
    ranked = list(np.argsort(-probabilities)[:count])
    outcome = f"taken for a {names[ranked[0]]}" if ranked[0] != truth else "just recognised"
    text = Text(f"a {names[truth]}, {outcome}\n", style="bold")
    shown = ranked if truth in ranked else [*ranked, truth]
    width = max(cell_len(names[label]) for label in shown)
    for label in shown:
        bar = "█" * round(20 * float(probabilities[label]))
        line = f"{set_cell_size(names[label], width)} {bar or '▏'} {probabilities[label]:.1%}\n"
        text.append(line, style="green" if label == truth else "red")
    return text


def most_wrong(
    x: Any, y: Any, probabilities: Any, image: tuple[int, int], names: list[str], colour: bool, count: int = 2
) -> Columns:
    """The samples whose true class got the least probability; `names` are those of the classes."""
    worst = np.argsort(probabilities[np.arange(len(y)), y], kind="stable")[:count]
    pictures = []
    for sample in worst:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        told = opinion(probabilities[sample], int(y[sample]), names)
        table.add_row(half_blocks(x[sample].reshape(image), colour), told)
        pictures.append(table)
    return Columns(pictures, padding=(1, 4))
