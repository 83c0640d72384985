"""Text and mathematics in Unicode as TeX in ASCII: ∂C/∂w5 becomes \\partial C/\\partial w_{5}."""

import re
from itertools import pairwise
from unicodedata import normalize

from gpubp.explain.render import RIGHT, WRONG, printable
from gpubp.explain.render.scripts import SUBSCRIPTS, SUPERSCRIPTS, plain_letters

GREEK = {"α": "alpha", "β": "beta", "δ": "delta", "ε": "epsilon", "η": "eta", "θ": "theta", "λ": "lambda", "μ": "mu"}
GREEK |= {"σ": "sigma", "Δ": "Delta", "Σ": "sum"}
SIGNS = {sign: f"\\{name} " for sign, name in GREEK.items()}
SIGNS |= {"∂": "\\partial ", "∇": "\\nabla ", "·": "\\cdot ", "∘": "\\circ ", "⊙": "\\odot ", "×": "\\times "}
SIGNS |= {"→": "\\to ", "←": "\\leftarrow ", "−": "-", "±": "\\pm ", "≤": "\\leq ", "≥": "\\geq ", "≈": "\\approx "}
SIGNS |= {"∞": "\\infty ", "√": "\\surd ", "½": "\\frac{1}{2}", "‖": "\\|", "°": "{}^{\\circ}"}
SIGNS |= {"ŷ": "\\hat{y}", "Ŷ": "\\hat{Y}"}
ESCAPED = {letter: f"\\{letter}" for letter in "#$%&_{}"}
MATHEMATICS = SIGNS | ESCAPED | {"…": "\\ldots ", "\\": "\\backslash ", "~": "\\sim ", "^": "\\wedge "}
TEXT = ESCAPED | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "`": "{`}"}
TEXT |= {"<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "“": "``", "”": "''", "’": "'", "…": "\\ldots{}"}
TEXT |= {"[": "{[}", "*": "{*}"}  # which mean something behind the end of a row
TEXT |= {RIGHT: "$\\checkmark$", WRONG: "$\\times$"}
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030c": "v"}
ACCENTS |= {"\u0327": "c"}
OPERATORS = frozenset("=+-−·∘⊙×→←±≈≤≥")

TOKEN = re.compile(
    r"(?P<number>\d[\d,]*(?:\.\d+)?)(?:e(?P<power>[-+]?\d+))?"
    r"|(?P<array>[Wb])\[(?P<layer>\d+)\](?:\[(?P<index>[\d,]+)\])?"
    r"|(?P<word>[A-Za-z]+)(?:_(?P<of>[A-Za-z]*\d+)|(?P<digits>\d+))?"
    rf"|(?P<scripts>(?P<up>{SUPERSCRIPTS.pattern})(?P<down>{SUBSCRIPTS.pattern})?|(?P<low>{SUBSCRIPTS.pattern}))"
    r"|(?P<space> +)|(?P<sign>.)"
)
# A word of a text that is mathematics: -0.5, 2e-15, w5, z_o1, -(y, W[0][1,0], f'(z_h1), dC/dw; also a word with signs.
MATHEMATICAL = re.compile(
    r"[-+]\d[\d,]*(?:\.\d+)?|[-+]?\d[\d,]*(?:\.\d+)?e[-+]?\d+"
    r"|[-(]*(?:[A-Za-z]_[A-Za-z]{0,2}\d+|[A-Za-z]{1,2}\d+|[b-zB-HJ-Z]|d[A-Z])\)*|[Wb]\[\d+\](?:\[[\d,]+\])?"
    r"|d[A-Z]\d*/d[A-Za-z]\d*|(?:[a-z]|softmax|diag|log|exp)'?\(\S*\)"
)
ARTICLE = re.compile(r"[-(]*[aA]\)*")  # mathematics beside an operator, an English word elsewhere


def mathematics(text: str) -> str:
    """What stands between two $.

    >>> mathematics("∂C/∂w5 = f'(z_o1) · W[0][1,0] · 1.5e-05")
    "\\\\partial C/\\\\partial w_{5} = f'(z_{o1}) \\\\cdot  W^{(0)}_{1,0} \\\\cdot  1.5\\\\cdot 10^{-5}"
    """
    return "".join(map(_token, TOKEN.finditer(printable(text)))).strip()


def _token(match: re.Match[str]) -> str:
    found, before = match.groupdict(), match.string[: match.start()]
    if found["number"]:
        power = "" if found["power"] is None else f"\\cdot 10^{{{int(found['power'])}}}"
        return found["number"].replace(",", "{,}") + power
    if found["array"]:
        return f"{found['array']}^{{({found['layer']})}}" + (f"_{{{found['index']}}}" if found["index"] else "")
    if found["word"]:
        below = found["of"] or found["digits"]
        return _named(found["word"]) + (f"_{{{below}}}" if below else "")
    if found["scripts"]:
        above, below = found["up"], found["down"] or found["low"]
        scripts = "".join(f"{sign}{{{plain_letters(part)}}}" for sign, part in (("^", above), ("_", below)) if part)
        return scripts if _is_bare(before) else "{}" + scripts
    if found["space"]:
        beside = {before[-1:], match.string[match.end() : match.end() + 1]}
        return " " if beside & OPERATORS else "\\," if match[0] == " " else "\\quad "
    if match[0] == "'" and not (_is_bare(before) or before.endswith("'")):
        return "{}'"
    return MATHEMATICS.get(match[0]) or _plain(match[0])


def _is_bare(before: str) -> bool:
    """Whether it ends with a letter that has no script yet: TeX refuses two in one place."""
    last = before[-1:]
    return last.isalpha() and not SUPERSCRIPTS.match(last) and not SUBSCRIPTS.match(last)


def _named(word: str) -> str:
    """A variable in italics, dW too; the name of a function or of anything else upright."""
    if word in GREEK.values():
        return f"\\{word} "
    return word if len(word) == 1 or re.fullmatch("d[A-Za-z]", word) else f"\\mathrm{{{word}}}"


def _plain(letter: str) -> str:
    """A letter without its accent; a question mark where there is none in ASCII."""
    base = normalize("NFKD", letter)[0]
    return base if base.isascii() else "?"


def text(line: str) -> str:
    """What stands in a text, its mathematics between $.

    >>> text("z is the input of h1, 50 % of -0.25")
    '$z$ is the input of $h_{1}$, 50 \\\\% of $-0.25$'
    """
    quoted = re.sub(r'"([^"]*)"', "“\\1”", printable(line))
    words = re.sub(r"(?<=\d) x (?=\d)", " × ", quoted).split()
    told = ""
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        told += _word(word, before, after) + ("~" if word in OPERATORS and word != "-" else " ")
    return told.rstrip(" ~")


def _word(word: str, before: str, after: str) -> str:
    if word == "-":
        return "$-$" if all(map(_is_quantity, (before, after))) else "--"
    if word in OPERATORS or (ARTICLE.fullmatch(word) and OPERATORS & {before, after}):
        return f"${mathematics(word)}$"
    start, core, end = _peeled(word)
    return _escaped(start) + f"${mathematics(core)}$" + _escaped(end) if core else _escaped(word)


def _is_quantity(word: str) -> bool:
    plain = ARTICLE.fullmatch(word) or re.fullmatch(r"[-(]*[\d.]+\)*[.,;:]?", word)
    return bool(plain or _peeled(word)[1])


def _peeled(word: str) -> tuple[str, str, str]:
    """A word without the punctuation and brackets around what is mathematics; no core where nothing is."""
    core = word.rstrip(".,;:?!")
    start, end = "", word[len(core) :]
    while core:
        if MATHEMATICAL.fullmatch(core) or any(letter in SIGNS or SUPERSCRIPTS.match(letter) for letter in core):
            return start, core, end
        if core[0] in '(["“' and core[-1] in ')]"”':
            start, core, end = start + core[0], core[1:-1], core[-1] + end
        elif core[0] in '(["“':
            start, core = start + core[0], core[1:]
        elif core[-1] in ')]"”':
            core, end = core[:-1], core[-1] + end
        else:
            break
    return "", "", ""


def _escaped(word: str) -> str:
    """A word of no mathematics; -- is kept from becoming a dash."""
    pairs = pairwise([*word, ""])
    return "".join((TEXT.get(letter) or _accented(letter)) + "{}" * (letter == after == "-") for letter, after in pairs)


def _accented(letter: str) -> str:
    """
    >>> _accented("é")
    "\\\\'{e}"
    """
    base, *accents = list(normalize("NFD", letter))
    return f"\\{ACCENTS[accents[0]]}{{{base}}}" if accents and accents[0] in ACCENTS else _plain(letter)
