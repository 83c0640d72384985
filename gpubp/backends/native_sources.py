"""The C++ of one native kernel: a loop of `kernels/host.hpp` around the device function of a declared kernel."""

from typing import NamedTuple


class NativeKernel(NamedTuple):
    """What distinguishes one compiled kernel from another."""

    template: str  # "elementwise", "columns", "reduction" or "rowwise": a loop of that name
    function: str | None  # the device function; None adds up what is there
    source: str | None  # its file
    dtype: str  # "float" or "double": what T is
    parameters: tuple[tuple[str, str], ...]  # (type, name) of each argument

    @property
    def symbol(self) -> str:
        return f"gpubp_{self.function or self.template}"

    @property
    def text(self) -> str:
        """A function of (words, top, bottom, width, part): the arguments, which rows, how wide, which part they are."""
        summed = self.template in ("columns", "reduction")
        numbers = "top, bottom" if self.template == "reduction" else "top, bottom, width"
        sums = f", static_cast<{self.dtype}*>(words[0].at) + part * width" if summed else ""
        bound = "".join(f", {kind}(words[{i}])" for i, (kind, _) in enumerate(self.parameters, summed))
        source = f'#include "{self.source}"\n' if self.source else ""
        return (
            f'#include "host.hpp"\n{source}'
            f'extern "C" void {self.symbol}(const Word* words, Size top, Size bottom, Size width, Size part) {{\n'
            f"  (void)width, (void)part;\n"
            f"  {self.template}({numbers}{sums}, {self._body()}{bound});\n}}\n"
        )

    def _body(self) -> str:
        """The device function as something that a loop can call."""
        if self.template == "rowwise":
            return f"[](auto team, auto&... row) {{ {self.function}<{self.dtype}>(team, row...); }}"
        names = [f"{name}_" for _, name in self.parameters]  # for one of them is called do
        given, called = ", ".join(f"auto& {name}" for name in names), ", ".join(names)
        call = f"{self.function}<{self.dtype}>({called}); " if self.function else ""
        if self.template == "columns":
            return f"[]({given}) {{ {call}return {names[-1]}; }}"
        if self.template == "reduction":
            call = f"{self.function}<{self.dtype}>({called}, total);" if self.function else f"total += {called};"
            return f"[]({given}, {self.dtype}& total) {{ {call} }}"
        return f"[]({given}) {{ {call}}}"
