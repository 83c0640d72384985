"""Mathematics in ASCII, for terminals that have no other letters: dC/dw5 for ∂C/∂w5."""

from gpubp.explain.render import RIGHT, WRONG
from gpubp.explain.render.scripts import SUBSCRIPTS, SUPERSCRIPTS, plain_letters

LETTERS = str.maketrans(
    {"∂": "d", "∇": "grad ", "Δ": "Delta", "Σ": "sum", "σ": "s", "δ": "delta", "η": "eta", "θ": "theta", "ε": "eps"}
    | {"α": "alpha", "β": "beta", "ŷ": "yhat", "Ŷ": "Yhat", "½": "1/2", "√": "sqrt ", "°": " degrees", "‖": "||"}
    | {"·": "*", "∘": "o", "×": "x", "−": "-", "±": "+-", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≈": "~"}
    | {"…": "...", RIGHT: "ok:", WRONG: "!"}
)


def ascii_text(text: str) -> str:
    """
    >>> ascii_text("∇W⁽¹⁾ = δ⁽²⁾ a⁽¹⁾ᵀ")
    'grad W^(1) = delta^(2) a^(1)T'
    """
    text = SUPERSCRIPTS.sub(lambda match: f"^{plain_letters(match[0])}", text)
    return SUBSCRIPTS.sub(lambda match: f"_{plain_letters(match[0])}", text).translate(LETTERS)
