"""The stand-in for CuPy: what its arrays, memory and devices do, refuse and count."""

import gc
import importlib
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated_cupy import install
from emulator.kernels import EmulationError

from gpubp.backends import detection


@pytest.fixture
def cp(emulated: Any) -> Any:
    return importlib.import_module("cupy")


def test_it_stands_in_for_cupy_and_leaves(cp: Any, emulated: Any) -> None:
    assert sys.modules["cupy"] is cp
    with install():
        assert sys.modules["cupy"] is not cp
        assert detection.why_not() is None
    assert sys.modules["cupy"] is cp
    assert detection.why_not.cache_info().currsize == 0


def test_an_array_is_no_numpy_array(cp: Any) -> None:
    a = cp.zeros((2, 3), "float32")
    assert (type(a).__module__, type(a).__name__) == ("cupy", "ndarray")
    assert not isinstance(a, np.ndarray)
    assert isinstance(a, cp.ndarray)
    assert (a.shape, a.dtype, a.size, a.nbytes, a.ndim, len(a)) == ((2, 3), np.float32, 6, 24, 2, 2)
    assert a.flags.c_contiguous
    assert not a.T.flags.c_contiguous
    assert a.data.ptr % 512 == 0
    assert a[1:].data.ptr == a.data.ptr + 12


MIXTURES: dict[str, tuple[Callable[[Any, Any, Any], Any], type[Exception]]] = {
    "np.asarray": (lambda cp, a, host: np.asarray(a), TypeError),
    "a + host": (lambda cp, a, host: a + host, TypeError),
    "host + a": (lambda cp, a, host: host + a, TypeError),
    "a @ host": (lambda cp, a, host: a @ host, TypeError),
    "a += host": (lambda cp, a, host: a.__iadd__(host), TypeError),
    "a == host": (lambda cp, a, host: a == host, TypeError),
    "np.add out": (lambda cp, a, host: np.add(a, a, out=host), TypeError),
    "cp.add": (lambda cp, a, host: cp.add(a, host), TypeError),
    "cp.sum": (lambda cp, a, host: cp.sum(host), TypeError),
    "cp.concatenate": (lambda cp, a, host: cp.concatenate([a, host]), TypeError),
    "a[host]": (lambda cp, a, host: a[host.astype(int)], TypeError),
    "a[...] =": (lambda cp, a, host: a.__setitem__(..., host), ValueError),
    "fill": (lambda cp, a, host: a.fill(host), ValueError),
    "host[...] =": (lambda cp, a, host: host.__setitem__(..., a), TypeError),
    "set of a device array": (lambda cp, a, host: a.set(a), TypeError),
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_numpy_arrays_do_not_mix_with_it(cp: Any, mixture: str) -> None:
    mix, error = MIXTURES[mixture]
    with pytest.raises(error):
        mix(cp, cp.zeros((2, 2)), np.zeros((2, 2)))


def test_scalars_of_numpy_do(cp: Any) -> None:
    a = cp.zeros(3, "float32")
    for result in (np.float32(2) + a, a + np.float32(2), 2.0 + a):
        assert result.dtype == np.float32
        assert result.tolist() == [2, 2, 2]


def test_it_computes_as_numpy(cp: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((2, 4, 4))
    a, b = cp.asarray(x), cp.asarray(y)
    for ours, numpys in [
        (a + b, x + y),
        (2 - a, 2 - x),
        (a / b, x / y),
        (a @ b.T, x @ y.T),
        (-a, -x),
        (abs(a), abs(x)),
        (a < b, x < y),
        (a**2, x**2),
        (a.sum(axis=0), x.sum(axis=0)),
        (a.argmax(axis=1), x.argmax(axis=1)),
        (cp.where(a > 0, a, b), np.where(x > 0, x, y)),
        (cp.concatenate([a, b]), np.concatenate([x, y])),
        (cp.linspace(0, 1, 5), np.linspace(0, 1, 5)),
        (a.astype("float32"), x.astype("float32")),
        (a[cp.asarray([2, 0])], x[[2, 0]]),
        (a.reshape(2, 8)[1, ::2], x.reshape(2, 8)[1, ::2]),
    ]:
        assert isinstance(ours, cp.ndarray)
        assert ours.dtype == numpys.dtype
        np.testing.assert_array_equal(ours.get(), numpys)
    assert cp.float32 is np.float32
    assert cp.finfo("float32").tiny == np.finfo("float32").tiny


def test_a_reduction_is_an_array_without_dimensions(cp: Any, emulated: Any) -> None:
    total = cp.ones((2, 3), "float32").sum()
    assert isinstance(total, cp.ndarray)
    assert (total.shape, total.dtype) == ((), np.float32)
    waits = emulated.waits
    assert (float(total), int(total), bool(total == 6), total.item()) == (6.0, 6, True, 6.0)
    assert emulated.waits == waits + 4


def test_views_share_their_memory(cp: Any, emulated: Any) -> None:
    a = cp.zeros((4, 3))
    assert (a.T.shape, a[1:].shape, a.reshape(12).shape, a[2, 1].shape) == ((3, 4), (3, 3), (12,), ())
    assert (emulated.allocations, emulated.launched.total()) == (1, 0)
    a[1:3].fill(5)
    a.T[0, 0] = 7
    a.reshape(12)[11] = 8
    element = a[3, 0]
    element[...] = 9  # as in CuPy, an element is a view
    assert a.get().tolist() == [[7, 0, 0], [5, 5, 5], [5, 5, 5], [9, 0, 8]]
    assert a.copy().data.ptr != a.data.ptr


def test_outputs_are_written_in_place(cp: Any) -> None:
    a, out = cp.arange(6.0).reshape(2, 3), cp.empty((2, 3))
    assert cp.exp(a, out=out) is out
    assert cp.add(a, 1, out) is out
    cp.take(a, cp.asarray([1, 1]), axis=0, out=out)
    assert out.get().tolist() == [[3, 4, 5]] * 2
    before = out.data.ptr
    out += 1
    assert (out.data.ptr, out[0, 0].item()) == (before, 4)
    np.multiply(a, 2, out=out)  # through __array_ufunc__
    assert out[1, 2].item() == 10


def test_new_memory_is_nan(cp: Any) -> None:
    assert np.isnan(cp.empty((3, 3), "float32").get()).all()
    assert not cp.zeros(5).get().any()
    cp.empty(3)[...] = cp.exp(cp.full(3, 1e9))  # no warnings of NumPy's


def test_copies_from_and_to_the_host(cp: Any, emulated: Any) -> None:
    a = cp.asarray(np.arange(6).reshape(2, 3).T)
    assert a.get().tolist() == [[0, 3], [1, 4], [2, 5]]
    assert cp.ascontiguousarray(a.T).flags.c_contiguous
    assert cp.asarray(a) is a
    assert cp.asarray(a, "float32").dtype == np.float32
    assert cp.asnumpy([1, 2]).tolist() == [1, 2]
    a.set(np.full((3, 2), 4))
    assert emulated.copies_to_device == 2
    out = np.empty((3, 2), int)
    assert a.get(out=out) is out
    assert out.tolist() == [[4, 4]] * 3
    for wrong in (np.zeros((3, 2)), np.zeros((2, 3), int)):
        with pytest.raises((TypeError, ValueError)):
            a.set(wrong)
    with pytest.raises(RuntimeError, match="non-contiguous"):
        cp.zeros((4, 4))[::2, ::2].set(np.zeros((2, 2)))


def test_dlpack_shares_memory(cp: Any, emulated: Any) -> None:
    a = cp.arange(4.0)
    assert a.__dlpack_device__() == (2, 0)
    tensor = SimpleNamespace(__dlpack__=a.__dlpack__, __dlpack_device__=a.__dlpack_device__)
    used = emulated.pool.used_bytes()
    b = cp.from_dlpack(tensor)
    b += 1
    assert a.get().tolist() == [1, 2, 3, 4]
    assert emulated.pool.used_bytes() == used
    with pytest.raises(BufferError):
        cp.from_dlpack(np.zeros(3))


# -- memory and devices ------------------------------------------------------------------------------------------------


def test_the_pool_counts_what_is_used_and_keeps_what_is_free(cp: Any, emulated: Any) -> None:
    pool = cp.get_default_memory_pool()
    a = cp.zeros(1000, "float32")
    view = a[10:]
    assert (pool.used_bytes(), emulated.allocations) == (4096, 1)
    del a
    assert pool.used_bytes() == 4096
    del view
    assert (pool.used_bytes(), pool.free_bytes()) == (0, 4096)
    pool.free_all_blocks()
    assert pool.free_bytes() == 0


def test_out_of_memory(cp: Any, emulated: Any) -> None:
    emulated.limit_memory(1 << 20)
    kept = cp.zeros(100_000, "uint8")
    message = re.escape("Out of memory allocating 2,000,384 bytes (allocated so far: 100,352 bytes).")
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match=message):
        cp.empty(2_000_000, "uint8")
    assert cp.cuda.Device(0).mem_info == ((1 << 20) - 100_352, 1 << 20)
    assert kept.nbytes == 100_000


def test_devices_have_their_own_memory(cp: Any, emulated: Any) -> None:
    emulated.devices = 2
    a = cp.zeros(3)
    with cp.cuda.Device(1):
        b = cp.zeros(3)
        assert (b.device.id, cp.get_default_memory_pool().used_bytes()) == (1, 512)
        with pytest.raises(EmulationError, match="an array of device 0"):
            a + 1
    assert cp.get_default_memory_pool().used_bytes() == 512
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"), cp.cuda.Device(2):
        pass


def test_an_array_of_an_earlier_test_is_dead(cp: Any) -> None:
    a = cp.zeros(3)
    with install(), pytest.raises(EmulationError, match="of an earlier test"):
        a + 1


@pytest.mark.parametrize(("driver", "devices", "status"), [(0, 1, 35), (12040, 1, 35), (13000, 0, 100)])
def test_no_driver_an_old_one_no_device(cp: Any, emulated: Any, driver: int, devices: int, status: int) -> None:
    emulated.driver, emulated.devices = driver, devices
    runtime = cp.cuda.runtime
    for call in (runtime.getDeviceCount, lambda: cp.empty(3), lambda: cp.cuda.alloc_pinned_memory(8)):
        with pytest.raises(runtime.CUDARuntimeError) as caught:
            call()
        assert caught.value.status == status
    assert (runtime.driverGetVersion(), runtime.runtimeGetVersion()) == (driver, 13000)
    gc.collect()


def test_missing_libraries(cp: Any, emulated: Any) -> None:
    a = cp.zeros((2, 2))
    emulated.missing = {"nvrtc"}
    for call in (lambda: a + 1, cp.cuda.nvrtc.getVersion, lambda: a.sum(), lambda: cp.ones(3)):
        with pytest.raises(RuntimeError) as caught:
            call()
        assert type(caught.value).__name__ == "DynamicLibNotFoundError"
    assert (a @ a).get().sum() == 0  # cuBLAS is there
    emulated.missing = {"cublas"}
    assert (a + 1).get().sum() == 4
    with pytest.raises(ImportError, match="libcublas"):
        a @ a


def test_a_wrong_product(cp: Any, emulated: Any) -> None:
    a = cp.ones((2, 2))
    emulated.wrong_matmul = True
    assert (a @ a).get().tolist() != [[2, 2], [2, 2]]
