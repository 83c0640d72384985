"""A tape: kernels and matrix products recorded in their order, which one call into native code plays.

What differs from one time to the next, arrays and numbers, are the tape's slots; a play gives each its value.
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.backends.blas import blas, why_not
from gpubp.backends.compiler import Compiler
from gpubp.backends.native_sources import NativeKernel
from gpubp.errors import DeviceError
from gpubp.kernel import SOURCES, Array
from gpubp.processor import cores

# The operations of kernels/tape.cpp that have no device function, by their numbers there.
PRODUCT, WIDE_PRODUCT, GATHER, ONE_HOT, ADD_ROWS = range(5)
# An array's object begins with Python's header, then the pointer to its elements (NumPy's C API, PyArrayObject): native
# code reads it there, as array.ctypes.data takes a microsecond.
HEADER = object.__basicsize__


class Engine:
    """Compiled kernels and the threads that play tapes: one for the process. DeviceError where it cannot be had."""

    def __init__(self) -> None:
        if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
            raise DeviceError("native kernels need CPython on a 64-bit system")
        probe = np.empty(1)
        if pointer_of(probe) != probe.ctypes.data:
            raise DeviceError("this NumPy's arrays are not laid out as native kernels expect")
        self.compiler = Compiler()
        self.blas = blas()
        self.threads = min(cores(), self.blas.threads()) if self.blas else cores()
        text = (SOURCES / "tape.cpp").read_text(encoding="utf-8")
        self._library = self.compiler.library("gpubp_tape", text)
        self._addresses: dict[NativeKernel, int] = {}
        self._libraries: list[ctypes.CDLL] = []
        self._library.gpubp_operation.restype = ctypes.c_void_p
        self.play = self._library.gpubp_play
        self.play.restype = None
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self.play.argtypes = [pointer, size, pointer, pointer, size, pointer, ctypes.c_int]
        known = self.blas
        self._library.gpubp_begin(
            pointer(known.get_threads if known else None), pointer(known.set_threads if known else None)
        )

    def describe(self) -> str:
        products = "" if self.blas else f"; NumPy's products: {why_not()}"
        return f"native kernels ({self.compiler.name}), {self.threads} thread{'s' * (self.threads != 1)}{products}"

    def addresses(self, operations: list[NativeKernel | int]) -> list[int]:
        """Where the code of each is; what has not been compiled is, several at a time."""
        missing = {kernel for kernel in operations if isinstance(kernel, NativeKernel)} - set(self._addresses)
        if missing:
            with ThreadPoolExecutor(self.threads) as pool:
                for kernel, library in zip(missing, pool.map(self._compiled, missing), strict=True):
                    self._libraries.append(library)
                    function = ctypes.cast(library[kernel.symbol], ctypes.c_void_p)
                    self._addresses[kernel] = function.value or 0
        return [
            self._addresses[each] if isinstance(each, NativeKernel) else self._library.gpubp_operation(each)
            for each in operations
        ]

    def _compiled(self, kernel: NativeKernel) -> ctypes.CDLL:
        try:
            return self.compiler.library(kernel.symbol, kernel.text)
        except DeviceError as error:
            raise DeviceError(f"{error}; GPUBP_NATIVE=0 does without compiled kernels") from None


def engine() -> Engine:
    """The process's engine; DeviceError, with the same reason every time, where there is none."""
    found = _engine_or_reason()
    if isinstance(found, str):
        raise DeviceError(found)
    return found


@functools.cache
def _engine_or_reason() -> Engine | str:
    try:
        return Engine()
    except DeviceError as error:
        return str(error)


@dataclass(frozen=True, slots=True)
class Number:
    """What stands for a slot's number while a tape is recorded."""

    value: Any  # a float, or NumPy's uint32
    slot: int


def pointer_of(a: Array) -> int:
    return ctypes.c_void_p.from_address(id(a) + HEADER).value or 0


class Tape:
    """Operations in their order, the words that they read, and calls into Python for what is not native's to do."""

    def __init__(self, slots: tuple[Any, ...] = ()) -> None:
        """`slots` are the stand-ins for what differs from one play to the next."""
        self._slot_at = {pointer_of(a): slot for slot, a in enumerate(slots) if isinstance(a, np.ndarray)}
        self.slots = slots
        self.operations: list[NativeKernel | int] = []
        self.cuts: list[tuple[int, int, int, int, bool]] = []  # of each: first word, rows, width, grain, shared
        self.words: list[int] = []
        self.places: list[int] = []  # threes: a word, the slot it is filled from, and where in that object, if in one
        self.kept: list[Array] = []  # what the words point at
        self.calls: list[tuple[int, Call]] = []  # each after so many operations

    def add(
        self, operation: NativeKernel | int, words: list[Any], rows: int, width: int, grain: int, shared: bool
    ) -> None:
        """Record an operation, of which a part is `grain` rows; `shared` by the threads if it is worth that."""
        self.operations.append(operation)
        self.cuts.append((len(self.words), rows, width, grain, shared))
        for word in words:
            self._add_word(word)

    def _add_word(self, word: Any) -> None:
        slot = self._slot(word)
        if slot is not None:
            self.places += [len(self.words), slot, HEADER if isinstance(word, np.ndarray) else 0]
            bits = 0
        elif isinstance(word, np.ndarray):
            bits = pointer_of(word)
            self.kept.append(word)
        else:
            bits = int(word.view(np.uint32)) if isinstance(word, np.float32) else int(word)
        self.words.append(bits)

    def _slot(self, arg: Any) -> int | None:
        if isinstance(arg, Number):
            return arg.slot
        return self._slot_at.get(pointer_of(arg)) if isinstance(arg, np.ndarray) else None

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Record a call; of its arguments a slot's array may be transposed."""
        slots = [(i, slot) for i, arg in enumerate(args) if (slot := self._slot(arg)) is not None]
        given = [(i, slot, self._is_turned(args[i], self.slots[slot])) for i, slot in slots]
        self.calls.append((len(self.operations), Call(function, list(args), given)))

    def _is_turned(self, arg: Any, stand_in: Any) -> bool:
        return isinstance(arg, np.ndarray) and (arg.shape, arg.strides) != (stand_in.shape, stand_in.strides)


@dataclass(frozen=True)
class Call:
    """A function of Python's, and where its arguments come from."""

    function: Callable[..., Any]
    args: list[Any]
    given: list[tuple[int, int, bool]]  # the place of an argument, its slot, and whether it is transposed

    def __call__(self, slots: tuple[Any, ...]) -> None:
        args = self.args.copy()
        for place, slot, turned in self.given:
            args[place] = slots[slot].T if turned else slots[slot]
        self.function(*args)


class Player:
    """Plays a tape with the values of its slots."""

    def __init__(self, engine: Engine, tape: Tape) -> None:
        words = np.array(tape.words, np.uint64)
        starts = [(address, words.ctypes.data) for address in engine.addresses(tape.operations)]
        cuts = [(at + 8 * first, *cut) for (_, at), (first, *cut) in zip(starts, tape.cuts, strict=True)]
        operations = np.array([(address, *cut) for (address, _), cut in zip(starts, cuts, strict=True)], np.int64)
        places = np.array(tape.places, np.int64)
        count = len(tape.slots)
        self._values = (ctypes.c_uint64 * count)()
        self._floats = (ctypes.c_float * (2 * count)).from_buffer(self._values)
        self._arrays = [i for i, slot in enumerate(tape.slots) if isinstance(slot, np.ndarray)]
        numbers = [(i, slot.value) for i, slot in enumerate(tape.slots) if isinstance(slot, Number)]
        self._wholes = [i for i, value in numbers if isinstance(value, np.uint32)]
        self._reals = [i for i, value in numbers if not isinstance(value, np.uint32)]
        self._memory = words, operations, places, tape.kept
        self._play = engine.play
        shared = (
            words.ctypes.data,
            places.ctypes.data,
            len(places) // 3,
            ctypes.addressof(self._values),
            engine.threads,
        )
        self._parts: list[tuple[Any, ...] | Call] = []
        begin = 0
        for end, call in [*tape.calls, (len(operations), None)]:
            if end > begin:
                self._parts.append((operations.ctypes.data + 48 * begin, end - begin, *shared))
            self._parts += [call] if call else []
            begin = end

    def __call__(self, *slots: Any) -> None:
        for i in self._arrays:
            self._values[i] = id(slots[i])
        for i in self._reals:
            self._floats[2 * i] = slots[i]
        for i in self._wholes:
            self._values[i] = int(slots[i])
        for part in self._parts:
            if isinstance(part, tuple):
                self._play(*part)
            else:
                part(slots)
