"""The emulated `cupy.ndarray`: a NumPy array in a device's memory, which nothing reaches but through CuPy's ways."""

import operator
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from emulated.machine import MACHINE, Memory, Used
from emulator.kernels import EmulationError
from numpy.lib.array_utils import byte_bounds

PRODUCTS = ("matmul", "dot", "tensordot", "vdot", "inner")
IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


class PinnedMemoryPointer(bytearray):
    pass


def is_pinned(a: Any) -> bool:
    while isinstance(a, np.ndarray | memoryview):
        a = a.base if isinstance(a, np.ndarray) else a.obj
    return isinstance(a, PinnedMemoryPointer)


class MemoryPointer:
    def __init__(self, array: Any) -> None:
        self.array, self.ptr = array, array.host.ctypes.data

    def copy_from_device_async(self, src: "MemoryPointer", size: int, stream: Any = None) -> None:
        out, given = self.array, src.array
        if size != out.nbytes or size != given.nbytes or not (out.flags.c_contiguous and given.flags.c_contiguous):
            raise EmulationError("a copy of memory is of whole arrays that lie in it as they are counted")

        def copy() -> None:
            out.host.reshape(-1).view(np.uint8)[:] = given.host.reshape(-1).view(np.uint8)

        MACHINE.launched["copy"] += 1
        MACHINE.do(copy, given.used(False), out.used(True))


class ndarray:  # noqa: N801
    def __init__(self, shape: Any, dtype: Any = float) -> None:
        blank = np.broadcast_to(np.empty((), dtype), shape)
        self.memory = Memory(blank.nbytes)
        self.host = self.memory.bytes.view(blank.dtype).reshape(blank.shape)

    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    ndim = property(lambda self: self.host.ndim)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: MemoryPointer(self))
    device = property(lambda self: SimpleNamespace(id=self.memory.device))
    T = property(lambda self: view(self.host.T, self.memory))
    real = property(lambda self: view(self.host.real, self.memory))

    def used(self, write: bool) -> Used:
        begin, end = (place - self.memory.bytes.ctypes.data for place in byte_bounds(self.host))
        return self.memory, write, begin, end

    def use(self, write: bool) -> None:
        memory, *how = self.used(write)
        memory.use(*how)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **options: Any) -> Any:
        return apply(function, *args, **options) if method == "__call__" else NotImplemented

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        return self.host.__dlpack__(max_version=max_version)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.memory.device  # kDLCUDA

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        MACHINE.refuse_capture("an array is fetched")
        with stream or MACHINE.stream:
            self.use(write=False)
            MACHINE.stream.synchronize()
        MACHINE.copies_to_host += 1
        if out is None:
            return self.host.copy(order)
        out[...] = self.host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        MACHINE.check_pinned()
        MACHINE.refuse_capture("an array is sent")
        with stream or MACHINE.stream as stream:
            if is_pinned(arr):
                MACHINE.pinned.append((arr, arr.tobytes(), stream, stream.time + 1))
            elif stream is not MACHINE.null_stream:
                raise EmulationError("a copy from memory that is not pinned does not overlap with anything")
            self.use(write=True)
        self.host[...] = arr
        MACHINE.copies_to_device += 1

    def fill(self, value: Any) -> None:
        refuse_host_arrays(value)
        apply(np.ndarray.fill, self, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        refuse_host_arrays(value)
        apply(np.ndarray.__setitem__, self, key, value)

    def __getitem__(self, key: Any) -> Any:
        key = key if isinstance(key, tuple) else (key,)
        # With an ellipsis NumPy, too, gives an element as a view without dimensions.
        return apply(np.ndarray.__getitem__, self, key if any(k is ... for k in key) else (*key, ...))

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def item(self) -> Any:
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __repr__(self) -> str:
        return repr(self.host)


def refuse_host_arrays(value: Any) -> None:
    if isinstance(value, np.ndarray) and value.shape != ():
        raise ValueError("non-scalar numpy.ndarray cannot be used for fill")


def view(host: Any, memory: Memory) -> ndarray:
    array = ndarray.__new__(ndarray)
    array.host, array.memory = host, memory
    return array


def on_device(host: Any) -> ndarray:
    """A copy of a host array, with its memory layout."""
    order = "F" if host.flags.f_contiguous and not host.flags.c_contiguous else "C"
    memory = Memory(host.nbytes)
    array = view(memory.bytes.view(host.dtype).reshape(host.shape, order=order), memory)
    array.host[...] = host
    return array


def arrays_in(values: Iterable[Any]) -> list[ndarray]:
    found = []
    for value in values:
        if isinstance(value, ndarray):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += arrays_in(value)
    return found


def to_host(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, tuple | list):
        return type(value)(map(to_host, value))
    return value.host if isinstance(value, ndarray) else value


def to_device(result: Any, given: list[ndarray]) -> Any:
    """What NumPy gave, as CuPy gives it: the same array, a view of it, or a new one, with 0 dimensions for a scalar."""
    if isinstance(result, tuple | list):
        return type(result)(to_device(part, given) for part in result)
    for array in given:
        if result is array.host:
            return array
        if isinstance(result, np.ndarray) and np.may_share_memory(result, array.memory.bytes):
            return view(result, array.memory)
    return on_device(np.asarray(result)) if isinstance(result, np.ndarray | np.generic | bool) else result


def apply(function: Any, *args: Any, **options: Any) -> Any:
    """Do on the device what a function of NumPy does."""
    name = function.__name__
    given = arrays_in([*args, *options.values()])
    outputs = args[function.nin :] if isinstance(function, np.ufunc) else args[: name in WRITERS]
    written = arrays_in([*outputs, options.get("out")])
    with np.errstate(all="ignore"):
        result = function(*map(to_host, args), **{key: to_host(value) for key, value in options.items()})
    array = to_device(result, given)
    if isinstance(array, ndarray) and not written and any(array.memory is other.memory for other in given):
        return array  # a view: no work
    MACHINE.need("cublas" if name in PRODUCTS else "nvrtc")
    MACHINE.refuse_capture(f"cupy.{name} is called")
    for other in given:
        other.use(write=any(other is out for out in written))
    if isinstance(array, ndarray):
        array.use(write=True)
        if name in PRODUCTS and MACHINE.wrong_matmul:
            array.host += 1
    MACHINE.launched[f"cupy.{name}"] += 1
    return array


def method(function: Any, reflected: bool = False, in_place: bool = False) -> Any:
    if reflected:
        return lambda self, other: apply(function, other, self)
    if in_place:
        return lambda self, other: apply(function, self, other, out=self)
    return lambda self, *args, **options: apply(function, self, *args, **options)


WRITERS = ("__setitem__", "fill", "copyto", "put")
ARITHMETIC = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide, "floordiv": np.floor_divide},
    **{"mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or},
    **{"xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift},
}
METHODS = "all any argmax argmin astype copy dot max mean min ravel reshape sum take transpose view"
COMPARISONS = {"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal}
COMPARISONS |= {"ge": np.greater_equal, "gt": np.greater, "neg": np.negative, "abs": np.absolute, "invert": np.invert}
for word, ufunc in ARITHMETIC.items():
    setattr(ndarray, f"__{word}__", method(ufunc))
    setattr(ndarray, f"__r{word}__", method(ufunc, reflected=True))
    setattr(ndarray, f"__i{word}__", method(ufunc, in_place=True))
for word, ufunc in COMPARISONS.items():
    setattr(ndarray, f"__{word}__", method(ufunc))
for word in METHODS.split():
    setattr(ndarray, word, method(getattr(np.ndarray, word)))
for convert in (bool, int, float, complex, operator.index):
    name = f"__{convert.__name__.strip('_')}__"
    setattr(ndarray, name, lambda self, convert=convert: convert(self.get()))
ndarray.__module__ = "cupy"
