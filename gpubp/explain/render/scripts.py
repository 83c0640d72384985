"""Superscripts and subscripts of Unicode, W⁽¹⁾₁₂ and xᵀ, spelled with the letters that they are of."""

import re
from unicodedata import normalize

SUPERSCRIPTS = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ᵀᵏˡᵐⁿⁱ]+")
SUBSCRIPTS = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₖₗₘₙᵢⱼ]+")


def plain_letters(script: str) -> str:
    """
    >>> plain_letters("⁽ˡ⁾ᵀ")
    '(l)T'
    """
    return normalize("NFKC", script).replace("−", "-")
