"""The stand-in for CuPy against the real one, which needs no GPU for it: it has what the stand-in has, and alike."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from emulated_cupy import Cupy

import gpubp

pytestmark = pytest.mark.check

PACKAGE = Path(gpubp.__file__).parent

CALLED = """
asarray ascontiguousarray asnumpy empty zeros from_dlpack get_default_memory_pool ElementwiseKernel RawModule
RawModule.get_function ndarray.get ndarray.set ndarray.fill cuda.Device cuda.Device.synchronize cuda.Event
cuda.Event.synchronize cuda.Graph.launch cuda.MemoryPointer.copy_from_device_async cuda.Stream
cuda.Stream.begin_capture cuda.Stream.end_capture cuda.Stream.record cuda.Stream.wait_event cuda.Stream.synchronize
cuda.alloc_pinned_memory cuda.get_current_stream cuda.get_elapsed_time cuda.Event.record
cuda.nvrtc.createProgram cuda.nvrtc.compileProgram
cuda.nvrtc.getProgramLog cuda.nvrtc.getCUBIN cuda.nvrtc.destroyProgram cuda.nvrtc.getVersion
cuda.runtime.getDeviceCount cuda.runtime.getDeviceProperties cuda.runtime.driverGetVersion
cuda.runtime.runtimeGetVersion
"""
PRESENT = """
ndarray.T ndarray.all ndarray.any ndarray.argmax ndarray.astype ndarray.copy ndarray.data ndarray.device ndarray.dtype
ndarray.flags ndarray.item ndarray.max ndarray.min ndarray.nbytes ndarray.ndim ndarray.reshape ndarray.shape
ndarray.size ndarray.sum ndarray.view ndarray.__dlpack__ ndarray.__dlpack_device__ cuda.Device.mem_info
cuda.Device.compute_capability cuda.Device.pci_bus_id matmul ones
"""


@pytest.fixture(scope="module")
def real() -> Any:
    return pytest.importorskip("cupy")


def resolve(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def parameters(function: Any) -> list[str]:
    """Their names; of Cython's functions from the first line of the documentation, such as "f(int a, b=None)"."""
    try:
        found = list(inspect.signature(function).parameters)
    except ValueError:
        found = ["args", "kwargs"]
    if found[-2:] == ["args", "kwargs"]:
        signature = re.match(r"[\w.]+\((.*)\)", function.__doc__.strip())
        assert signature, function
        parts = [part.split("=")[0].strip(" *") for part in signature[1].split(",")]
        found = [part.split()[-1] for part in parts if part]
    return [name for name in found if name != "self"]


@pytest.mark.parametrize("name", CALLED.split())
def test_the_real_one_takes_what_the_stand_in_takes(real: Any, name: str) -> None:
    ours, theirs = (parameters(resolve(module, name)) for module in (Cupy(), real))
    if theirs[-1:] == ["kwargs"]:
        theirs.append("options")
    places = [theirs.index(parameter) for parameter in ours]  # ValueError where there is none
    assert places == sorted(places)


@pytest.mark.parametrize("name", PRESENT.split())
def test_the_real_one_has_what_the_stand_in_has(real: Any, name: str) -> None:
    resolve(real, name)
    resolve(Cupy(), name)


def test_the_real_one_has_every_function_that_gpubp_calls(real: Any) -> None:
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    names = {name for text in texts for name in re.findall(r"\bxp\.([\w.]+)", text) if not name.startswith("__")}
    assert {"multiply", "matmul", "take", "cuda.runtime"} <= names
    for name in names:
        resolve(real, name)


def test_the_real_errors_are_alike(real: Any) -> None:
    cp = Cupy()
    ours, theirs = ([module.cuda.memory.OutOfMemoryError(1000, 2000)] for module in (cp, real))
    for module, errors in ((cp, ours), (real, theirs)):
        errors += [module.cuda.runtime.CUDARuntimeError(status) for status in (35, 100, 101)]
        errors += [module.cuda.nvrtc.NVRTCError(status) for status in (5, 6)]
    for one, other in zip(ours, theirs, strict=True):
        assert str(one) == str(other)
        assert type(one).__name__ == type(other).__name__
        assert type(one).__base__ is type(other).__base__
        assert getattr(one, "status", None) == getattr(other, "status", None)
    assert real.cuda.compiler.CompileException.__base__ is cp.cuda.compiler.CompileException.__base__ is Exception
