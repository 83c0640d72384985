"""The comparison with the body catches every device function with one change: a sign, an operation, a bias, a NaN."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from host_compared import agrees, agrees_on_specials
from host_compiled import Function, compiled, functions, includes, loop, sources
from kernel_arguments import OWN

from gpubp.kernel import KERNELS, Kernel

# What is put in the place of what; a loop's head and a comment stay as they are.
CHANGES = [
    (r" \+ b(?:\[j\]|\b)", ""),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " + "),
    (r" / ", " * "),
    (r"\w+ \* (?=[\w(-])", ""),
    (r" \+= ", " -= "),
    (r" -= ", " += "),
    (r"(?<=[(*=?:] )-(?=\w)|(?<=\()-(?=\w)|(?<=return )-(?=\w)", ""),
    (r"\bT\(0\)", "T(1)"),
    (r"\bT\(-?1\)", "T(2)"),
    (r"\bT\(2\)", "T(3)"),
    (r"\bT\((0\.\d+|1\.\d+)\)", r"T(1.5 * \1)"),
    (r" > ", " < "),
    (r" < ", " > "),
    (r"\b(\w+) != \1 \? \1 : ", ""),  # NaN is dropped
    (r": x;", ": T(0);"),
    (r" = x;", " = -x;"),
    (r"\blarger\(", "smaller("),
    (r"\bsmaller\(", "larger("),
    (r"\blarger\(", "fmax("),  # NaN is dropped
    (r"\bsmaller\(", "fmin("),
    (r"\blarger\(([^,]+), tiny<T>\(\)\)", r"(\1)"),
    (r"\b(exact_)?exp\(", r"\1expm1("),
    (r"\b(exact_)?expm1\(", r"\1exp("),
    (r"\blog\(", "log1p("),
    (r"\blog1p\(", "log("),
    (r"\bexact_log\(", "exact_expm1("),
    (r"\b(?:sqrt|fabs|(?:exact_)?tanh)\(", "("),
    (r" >> ", " << "),
    (r" \^ ", " | "),
]
# (function, replacement) that the comparison cannot see, and need not:
HARMLESS = {
    # NaN reaches the result by another term as well.
    *((name, "fmax(") for name in ("bias_softplus", "gelu_delta")),
    *((name, "fmax(") for name in ("binary_cross_entropy", "sigmoid_cross_entropy")),
    ("gelu_delta", "fmin("),
    ("mix", " | "),  # bits far below the threshold, which test_the_bits_of_dropout does see
}
KEPT = re.compile(r"for \([^)]*\)|//[^\n]*")


def changed(function: Function) -> Iterator[tuple[str, str]]:
    """(what was changed, text) of the function with one change."""
    text, start = function.text, function.text.index("{")
    kept = [match.span() for match in KEPT.finditer(text)]
    for pattern, new in CHANGES:
        for match in re.finditer(pattern, text) if (function.name, new) not in HARMLESS else ():
            if match.start() >= start and not any(low <= match.start() < high for low, high in kept):
                line = text[: match.start()].count("\n")
                made = text[: match.start()] + match.expand(new) + text[match.end() :]
                yield f"{function.name}: {text.splitlines()[line].strip()} -> {made.splitlines()[line].strip()}", made


def mutants() -> Iterator[tuple[str, str, list[Kernel]]]:
    """(what was changed, text, the kernels that must differ) of every kernel's function and of every helper."""
    every = [function for text in sources().values() for function in functions(text)]
    of = {function.name: function for function in every if function.returns == "void" and function.name in KERNELS}
    for function in every:
        if function.name in of:
            for what, text in changed(function):
                yield what, text, [KERNELS[function.name]]
        elif function.returns != "float":  # the exact ones have tests of their own
            users = [name for name, user in of.items() if re.search(rf"\b{function.name}\(", user.body)]
            for what, text in changed(function) if users else ():
                yield what, text + "".join(of[name].text for name in users), [KERNELS[name] for name in users]


@pytest.mark.check
@pytest.mark.toolchain
def test_every_changed_device_function_is_caught(tmp_path: Path) -> None:
    made = list(mutants())
    text = includes(OWN)
    for number, (_, code, kernels) in enumerate(made):
        text += f"namespace changed{number} {{\n{code}}}\n"
        for kernel in kernels:
            text += loop(kernel, "double", f"{kernel.name}_{number}", f"changed{number}::")
    library = compiled(tmp_path, text, "-O0", "-w")
    missed = []
    for number, (what, _, kernels) in enumerate(made):
        for kernel in kernels:
            symbol = f"{kernel.name}_{number}"
            if not agrees(library, symbol, kernel, 33, 31, np.float64):
                break
            if kernel.kind != "reduction" and not agrees_on_specials(library, symbol, kernel, np.float64):
                break
        else:
            missed.append(what)
    assert not missed, "\n".join(missed)
    caught = " ".join(what.split(":")[0] for what, _, _ in made).split()
    assert set(caught) >= {kernel.name for kernel in OWN}
