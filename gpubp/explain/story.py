"""How a step is told: the document of a trace, and of the chain rule for one parameter."""

from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.explain.document import Block, Cell, Document, Formula, Heading, Paragraph, Table, Verdict, figure

if TYPE_CHECKING:
    from gpubp.explain.chain import Chain, Term
    from gpubp.explain.trace import LayerTrace, Trace

ROUNDING = {"float32": 2.0**-23, "float64": 2.0**-52}
MOST_UNITS = 12  # of a layer, and samples of a batch, that are listed one by one
MOST_WEIGHTS = 40  # of a layer
SHOWN_PATHS = 12


def story(trace: "Trace", full: bool = False) -> Document:
    """The whole step to read: forward, backward, the update, and what it brought."""
    blocks: list[Block] = [Paragraph(_what(trace)), Heading("Forward and backward, layer by layer")]
    for layer in trace.layers:
        blocks += _units(trace, layer, full)
    blocks.append(Heading(f"The step: w - {trace.learning_rate:g} ∂C/∂w"))
    for layer in trace.layers:
        blocks += _parameters(trace, layer, full)
    blocks += [Heading("What it brought"), *_outcome(trace, full)]
    return Document(f"One step of {'-'.join(map(str, trace.sizes))}", blocks)


def _what(trace: "Trace") -> str:
    names = ", ".join(layer.activation for layer in trace.layers)
    samples = "one sample" if len(trace.x) == 1 else f"{len(trace.x)} samples, {trace.reduction} of their losses"
    return f"{names}; {trace.loss}; {samples}; learning rate {trace.learning_rate:g}; {trace.dtype} on {trace.device}"


def _units(trace: "Trace", layer: "LayerTrace", full: bool) -> list[Block]:
    """z, activation, f', delta of each unit, for each sample."""
    rows, units = layer.z.shape
    caption = f"Layer {layer.index}: {layer.activation}, {units} {'unit' if units == 1 else 'units'}"
    if rows * units > MOST_UNITS and not full:
        arrays = [("z", layer.z), ("y = f(z)", layer.y), ("f'(z)", layer.slope), ("delta = ∂C/∂z", layer.delta)]
        table = _summary(caption + f", {rows} samples" * (rows > 1), arrays)
        return [table, Paragraph(_more(f"trace.layers[{layer.index}]"), "faint")]
    columns = ["unit", "z", "y = f(z)", "f'(z)", "∂C/∂y", "delta = ∂C/∂z"]
    table_rows: list[list[Cell | str | float | None]] = []
    for sample in range(rows):
        for j in range(units):
            name = trace.names.unit(layer.index + 1, j)
            slope = None if layer.slope is None else float(layer.slope[sample, j])
            values = [float(array[sample, j]) for array in (layer.z, layer.y)]
            gradient, delta = float(layer.activation_grad[sample, j]), Cell(float(layer.delta[sample, j]), "strong")
            table_rows.append([name if rows == 1 else f"{name}, sample {sample}", *values, slope, gradient, delta])
    return [Table.of(columns, table_rows, caption)]


def _parameters(trace: "Trace", layer: "LayerTrace", full: bool) -> list[Block]:
    """Each weight and bias: before, its gradient, after."""
    caption = f"Layer {layer.index}: W[{layer.index}] {layer.weight.shape}"
    count = layer.weight.size + (0 if layer.bias is None else layer.bias.size)
    if count > MOST_WEIGHTS and not full:
        arrays = [("W", layer.weight), ("∂C/∂W", layer.weight_grad), ("b", layer.bias), ("∂C/∂b", layer.bias_grad)]
        more = _more(f"trace.layers[{layer.index}]", ", and trace.weight('w1') explains one by its name")
        return [_summary(caption, arrays), Paragraph(more, "faint")]
    columns = ["parameter", "", "from → to", "before", "gradient ∂C/∂w", "after"]
    rows: list[list[Cell | str | float | None]] = []
    for i, j in np.ndindex(layer.weight.shape):
        if layer.mask is None or layer.mask[i, j]:
            named, ends = trace.names.at("w", layer.index, i, j), (layer.index, i, layer.index + 1, j)
            values = (float(array[i, j]) for array in (layer.weight, layer.weight_grad, layer.weight_after))
            rows.append(_row(named, f"{trace.names.unit(*ends[:2])} → {trace.names.unit(*ends[2:])}", *values))
    for j in range(0 if layer.bias is None else layer.bias.size):
        named = trace.names.at("b", layer.index, j)
        values = (float(array[j]) for array in (layer.bias, layer.bias_grad, layer.bias_after))
        rows.append(_row(named, f"→ {trace.names.unit(layer.index + 1, j)}", *values))
    return [Table.of(columns, rows, caption)]


def _row(named: Any, ends: str, before: float, gradient: float, after: float) -> list[Cell | str | float | None]:
    return [Cell(named.name, "strong"), Cell(named.path, "faint"), ends, before, Cell(gradient, "strong"), after]


def _summary(caption: str, arrays: list[tuple[str, Any]]) -> Table:
    """What can be said of arrays too large to print."""
    rows: list[list[Cell | str | float | None]] = []
    for name, array in arrays:
        if array is not None:
            size = np.abs(array)
            values = [float(value) for value in (array.min(), array.mean(), array.max(), np.sqrt(np.mean(size**2)))]
            rows.append([name, " x ".join(map(str, array.shape)), *values])
    return Table.of(["", "shape", "least", "mean", "greatest", "root mean square"], rows, caption)


def _more(where: str, otherwise: str = "") -> str:
    return f"Too many to print: --full prints them all on the command line; in Python {where} has them{otherwise}."


def _outcome(trace: "Trace", full: bool) -> list[Block]:
    before, after = trace.before, trace.after
    rows: list[list[Cell | str | float | None]] = []
    if before.outputs.size <= MOST_UNITS or full:
        for sample, j in np.ndindex(before.outputs.shape):
            name = trace.names.unit(len(trace.layers), j) + (f", sample {sample}" if len(trace.x) > 1 else "")
            rows.append([name, *(float(array[sample, j]) for array in (trace.y, before.outputs, after.outputs))])
    rows.append([Cell("cost C", "strong"), None, Cell(before.loss, "strong"), Cell(after.loss, "strong")])
    fell = after.loss < before.loss
    change = f"The cost {'fell' if fell else 'did not fall'}: {figure(before.loss)} → {figure(after.loss)}."
    remedy = "" if fell else " The gradient points downhill only nearby: try a smaller learning rate."
    if abs(after.loss - before.loss) <= 8 * ROUNDING[trace.dtype] * max(1.0, abs(before.loss)):
        remedy = f" That is the rounding of {trace.dtype}: here the network has next to nothing left to learn."
    return [Table.of(["", "target", "before", "after"], rows), Paragraph(change + remedy, "good" if fell else "bad")]


def chain_story(chain: "Chain") -> Document:
    """The gradient of one parameter, factor by factor and path by path."""
    trace, parameter = chain.trace, chain.parameter
    top = trace.names.unit(parameter.layer + 1, parameter.j)
    ends = f"to {top}" if parameter.i is None else f"from {trace.names.unit(parameter.layer, parameter.i)} to {top}"
    title = f"{parameter.name} ({parameter.path}), {'the bias' if parameter.i is None else 'the weight'} {ends}"
    derivative = f"∂C/∂{parameter.name}"
    blocks: list[Block] = [Heading("The chain rule")]
    for term in chain.terms[:MOST_UNITS]:
        of = f"   (sample {term.sample})" if len(chain.terms) > 1 else ""
        blocks.append(Formula(f"{derivative} = {_symbols(term)} = {_values(term)} = {figure(term.product)}{of}"))
    if len(chain.terms) > MOST_UNITS:
        blocks.append(
            Paragraph(f"… and {len(chain.terms) - MOST_UNITS} more samples: chain.terms has them all.", "faint")
        )
    if len(chain.terms) > 1:
        blocks.append(Paragraph(f"Their sum is the gradient {figure(chain.gradient)}."))
    if chain.gradient == 0 and (zeros := _zeros(chain)):
        blocks.append(Paragraph(f"It is 0, and no step moves {parameter.name}, since {zeros}."))
    if parameter.layer < len(trace.layers) - 1:
        blocks += [Heading("Every path from the cost down to it"), *_paths(chain)]
    step = f"{figure(chain.before)} - {trace.learning_rate:g} · {_factor(chain.gradient)} = {figure(chain.after)}"
    blocks += [Heading("The step"), Formula(f"{parameter.name} ← {step}"), _verdict(chain)]
    return Document(title, blocks)


def _paths(chain: "Chain") -> list[Block]:
    if not chain.listed:
        return [Paragraph(f"{chain.path_count:,} paths lead here, too many to list or no plain products.", "faint")]
    ranked = sorted(chain.paths, key=lambda path: -abs(path.product))
    several = len(chain.trace.x) > 1
    rows: list[list[Cell | str | float | None]] = [
        [
            " → ".join(path.units) + (f", sample {path.sample}" if several else ""),
            _symbols(path),
            _values(path),
            Cell(path.product, "strong"),
        ]
        for path in ranked[:SHOWN_PATHS]
    ]
    if rest := ranked[SHOWN_PATHS:]:
        rows.append([f"{len(rest):,} weaker paths", None, None, float(np.sum([path.product for path in rest]))])
    rows.append([Cell("sum over all paths", "strong"), None, None, Cell(chain.total, "strong")])
    return [Table.of(["path of the error", "factors", "their values", "product"], rows)]


def _symbols(term: "Term") -> str:
    return " · ".join(factor.symbol for factor in term.factors)


def _values(term: "Term") -> str:
    return " · ".join(_factor(factor.value) for factor in term.factors)


def _zeros(chain: "Chain") -> str:
    """The factors that are 0 for every sample, and so make the gradient 0."""
    factors = zip(*(term.factors for term in chain.terms), strict=True)
    return " and ".join(f"{each[0].symbol} is 0" for each in factors if all(factor.value == 0 for factor in each))


def _factor(value: float) -> str:
    """A number as it stands in a product."""
    return f"({figure(value)})" if value < 0 else figure(value)


def _verdict(chain: "Chain") -> Verdict:
    summed = f"the sum over {chain.path_count:,} paths" if chain.listed else "the sum over the samples"
    if len(chain.summed) == 1:
        summed = "the product"
    return Verdict(
        chain.agrees,
        f"{summed}, {chain.total:.12g}, {'is' if chain.agrees else 'is NOT'} the gradient of the backward pass, "
        f"{chain.gradient:.12g} (difference {f'{chain.error:.1e}' if chain.error else '0'})",
    )
