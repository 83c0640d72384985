"""Who owns memory: the Arena, the Workspace and Scratch.

The Arena holds parameters and gradients, the Workspace a batch's activations and deltas, Scratch kernels' temporaries.
"""

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from gpubp.kernel import Array

if TYPE_CHECKING:
    from gpubp.backends.base import Backend

MOST_VIEWS = 512  # of scratch kept at hand: more than a network needs, and a bound where every batch has another size
ALIGNMENT = 256  # bytes: what cudaMalloc gives, so that every view allows the widest loads


class Arena:
    """All parameters in one flat vector and all gradients in another, weights first, lent out as views.

    One vector makes the optimizer, clipping, restoring the best weights, a checkpoint and a move to another device one
    operation each. The gaps that alignment leaves are zero and stay zero: every optimizer leaves a zero parameter with
    a zero gradient where it is.
    """

    def __init__(self, backend: "Backend", sizes: list[int], use_bias: list[bool], dtype: Any) -> None:
        self.backend = backend
        self.owner = object()  # kept by a network that moves to another device, so that an optimizer's state may follow
        shapes: list[tuple[int, ...]] = list(pairwise(sizes))
        shapes += [(width,) for width, wanted in zip(sizes[1:], use_bias, strict=True) if wanted]
        itemsize = backend.itemsize(dtype)
        starts, end = [], 0
        for shape in shapes:
            starts.append(end)
            end += -(-prod(shape) * itemsize // ALIGNMENT) * ALIGNMENT // itemsize
        self.parameters = backend.zeros((end,), dtype)
        # Behind the gradients is room for what is added up with them over several processes: C, and Σ w.
        self.sums = backend.zeros((end + 2,), dtype)
        self.gradients = self.sums[:end]
        self.squared_norm = backend.zeros((), dtype)  # of the gradients, for clipping
        depth = len(sizes) - 1
        weights_end = starts[depth] if len(starts) > depth else end
        self.weights_end = weights_end
        self.weight_parameters = self.parameters[:weights_end]
        self.weight_gradients = self.gradients[:weights_end]
        self.bias_parameters = self.parameters[weights_end:]
        self.bias_gradients = self.gradients[weights_end:]
        self._places = list(zip(starts, shapes, strict=True))
        self._use_bias = use_bias
        self.weights, self.biases = self.cut(self.parameters)
        self.weight_grads, self.bias_grads = self.cut(self.gradients)

    def cut(self, flat: Array) -> tuple[list[Array], list[Array | None]]:
        """The weights and biases, as views, of a vector that is laid out as the parameters are."""
        views = [flat[start : start + prod(shape)].reshape(shape) for start, shape in self._places]
        depth = len(self._use_bias)
        biases = iter(views[depth:])
        return views[:depth], [next(biases) if wanted else None for wanted in self._use_bias]


class Workspace:
    """Named buffers that grow to the largest request and are lent out as views.

    Whoever keeps views asks `generation` if they still hold.
    """

    def __init__(self, backend: "Backend", dtype: Any) -> None:
        self.backend, self.dtype = backend, dtype
        self.buffers: dict[str, Array] = {}
        self.generation = 0

    def take(self, name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """An uninitialised array of this shape, the same memory for the same name."""
        size = prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            self.generation += 1
            self.buffers.pop(name, None)  # freed before its successor is allocated
            self.buffers[name] = self.backend.empty((size,), dtype or self.dtype)
        return self.buffers[name][:size].reshape(shape)


class Scratch:
    """Temporaries for kernel bodies, cut from one growing buffer for each dtype.

    The views are kept, so that a warm step makes none.
    """

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend
        self._buffers: dict[Any, Array] = {}
        self._views: dict[tuple[int, tuple[int, ...], Any], tuple[Array, ...]] = {}

    def take(self, count: int, like: Array) -> tuple[Array, ...]:
        """`count` uninitialised arrays of the shape and dtype of `like`."""
        key = (count, like.shape, like.dtype.char)
        views = self._views.get(key)
        if views is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            views = self._views[key] = self._cut(count, like)
        return views

    def _cut(self, count: int, like: Array) -> tuple[Array, ...]:
        size = prod(like.shape)
        if like.dtype not in self._buffers or self._buffers[like.dtype].size < count * size:
            self._views.clear()
            self._buffers.pop(like.dtype, None)  # freed before its successor is allocated
            self._buffers[like.dtype] = self._backend.empty((count * size,), like.dtype)
        buffer = self._buffers[like.dtype]
        return tuple(buffer[i * size : (i + 1) * size].reshape(like.shape) for i in range(count))
