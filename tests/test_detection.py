"""Finding a GPU: what stands in the way, said precisely with what mends it; a stand-in for CuPy plays each trouble."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp.backends import detection

NVRTC_TROUBLE = 'DynamicLibNotFoundError: Failure finding "libnvrtc.so.13"'
CTK_12, CTK_13 = "pip install 'cupy-cuda12x[ctk]'", "pip install 'cupy-cuda13x[ctk]'"


class DynamicLibNotFoundError(RuntimeError):
    """As cuda.pathfinder's, when NVRTC is missing."""


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, text: str = "cudaErrorOfSomeKind: said CUDA") -> None:
        super().__init__(text)
        self.status = status


class Module(SimpleNamespace):
    __hash__ = object.__hash__  # as a module has it


class Device:
    compute_capability, mem_info = "90", (3 << 30, 4 << 30)

    def __init__(self, index: int) -> None:
        self.id = index

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *details: object) -> None: ...


class FakeArray:
    """On the device: adding runs a kernel."""

    def __init__(self, host: Any, add: Callable[[Any, Any], Any]) -> None:
        self.host, self._add = host, add

    def __add__(self, other: "FakeArray") -> "FakeArray":
        return FakeArray(self._add(self.host, other.host), self._add)


def raising(error: Exception) -> Callable[..., Any]:
    def raise_it(*args: Any, **options: Any) -> Any:
        raise error

    return raise_it


def fake_cupy(
    count: int | Exception = 1,
    driver: int = 13000,
    runtime: int = 13020,
    capability: str = "90",
    add: Callable[[Any, Any], Any] = np.add,
    matmul: Callable[..., Any] = np.matmul,
) -> Any:
    def multiply(a: FakeArray, b: FakeArray, out: FakeArray) -> None:
        matmul(a.host, b.host, out=out.host)

    device = type("Device", (Device,), {"compute_capability": capability})
    names = {
        "getDeviceCount": raising(count) if isinstance(count, Exception) else lambda: count,
        "getDeviceProperties": lambda index: {"name": b"A Card"},
        "driverGetVersion": lambda: driver,
        "runtimeGetVersion": lambda: runtime,
        "CUDARuntimeError": CUDARuntimeError,
    }
    nvrtc = SimpleNamespace(getVersion=lambda: (13, 0))
    return Module(
        cuda=SimpleNamespace(runtime=SimpleNamespace(**names), Device=device, nvrtc=nvrtc),
        asarray=lambda a: FakeArray(a, add),
        asnumpy=lambda a: a.host,
        empty=lambda shape, dtype: FakeArray(np.empty(shape, dtype), add),
        matmul=multiply,
        ndarray=FakeArray,
        __version__="14.0",
    )


Install = Callable[..., None]


@pytest.fixture
def with_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """A function that puts a module, or the error of importing one, in CuPy's place, and a driver beside it."""

    def forget() -> None:
        detection.why_not.cache_clear()
        detection.count.cache_clear()

    def install(module: Any, driver: int = 13000) -> None:
        find = raising(module) if isinstance(module, Exception) else lambda name: module
        monkeypatch.setattr(detection, "importlib", SimpleNamespace(import_module=find))
        monkeypatch.setattr(detection, "_driver", lambda: driver)
        forget()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield install
    forget()


def wrong(a: Any, b: Any, out: Any = None) -> Any:
    """A sum or a product of which one element is lost."""
    out = np.zeros_like(a) if out is None else out
    out[...] = a + b if a.ndim == 1 else a @ b
    out.flat[-1] = 0
    return out


def missing(name: str | None) -> Exception:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


def wrapped(text: str) -> Exception:
    """As CuPy reports what kept it from being imported: below a page of advice."""
    error = ImportError(f"\n=====\nFailed to import CuPy.\n\n{text}\n=====")
    error.__cause__ = ImportError(text)
    return error


NO_HOME = PermissionError(13, "Permission denied", "/home/nobody")
PROBLEMS: dict[str, tuple[Any, int, list[str]]] = {  # CuPy, the driver beside it, and what is to be said
    "no CuPy": (missing("cupy"), 13000, ["CuPy is not installed;", CTK_13, "the driver is for CUDA 13.0"]),
    "no CuPy, driver 12": (missing("cupy"), 12040, ["CuPy is not installed;", CTK_12, "CUDA 12.4"]),
    "no CuPy, driver 11": (missing("cupy"), 11080, ["CUDA 11.8", "update it", CTK_13]),
    "no CuPy, no driver": (missing("cupy"), 0, ["CuPy is not installed, nor is an NVIDIA driver", CTK_13]),
    "half of CuPy": (missing("cupy_backends"), 12040, ["CuPy is broken", "No module named 'cupy_backends'", CTK_12]),
    "broken CuPy": (
        wrapped("libcudart.so.13 is missing"),
        13000,
        ["CuPy is broken (ImportError: libcudart.so.13 is missing)", CTK_13],
    ),
    "two CuPys, warnings being errors": (
        UserWarning("\n---\n  CuPy may not function"),
        13000,
        ["CuPy may not function"],
    ),
    "no home": (NO_HOME, 13000, ["CuPy cannot write its cache", "/home/nobody", "set CUPY_CACHE_DIR"]),
    "no driver": (fake_cupy(CUDARuntimeError(35), driver=0), 0, ["no NVIDIA driver was found; install one"]),
    "old driver": (
        fake_cupy(CUDARuntimeError(35), driver=12020),
        12020,
        ["the driver supports CUDA 12.2, this CuPy was built for 13.2; update the driver, or pip uninstall", CTK_12],
    ),
    "very old driver": (
        fake_cupy(CUDARuntimeError(35), driver=11080, runtime=12090),
        11080,
        ["the driver supports CUDA 11.8, this CuPy was built for 12.9; update the driver. 'cpu'"],
    ),
    "no device": (fake_cupy(CUDARuntimeError(100)), 13000, ["the driver finds no CUDA device; nvidia-smi lists"]),
    "driver and library of two versions": (
        fake_cupy(CUDARuntimeError(803)),
        13000,
        ["the CUDA driver does not answer (CUDARuntimeError: cudaErrorOfSomeKind: said CUDA); restart"],
    ),
    "half an installation": (
        fake_cupy(ImportError("libcudart.so.12 is missing")),
        12090,
        ["CuPy cannot ask for cuda:0 (ImportError: libcudart.so.12 is missing);", CTK_12],
    ),
    "none": (fake_cupy(0), 13000, ["this machine has 0 CUDA devices, cuda:0 is not among them"]),
    "old card": (
        fake_cupy(capability="70"),
        13000,
        ["cuda:0 has compute capability 7.0, which CUDA 13 no longer knows; pip uninstall cupy-cuda13x and", CTK_12],
    ),
    "no NVRTC": (
        fake_cupy(add=raising(DynamicLibNotFoundError('Failure finding "libnvrtc.so.13"'))),
        13000,
        [f"NVRTC, which compiles kernels, was not found ({NVRTC_TROUBLE}); {CTK_13}"],
    ),
    "no NVRTC 12": (
        fake_cupy(add=raising(OSError("libnvrtc.so.12: cannot open shared object file")), runtime=12090),
        13000,
        ["NVRTC, which compiles kernels, was not found", "libnvrtc.so.12", CTK_12],
    ),
    "no cuBLAS": (
        fake_cupy(matmul=raising(ImportError('Failure finding "libcublas.so.13": No such file\n  listdir:'))),
        13000,
        ["cuBLAS, which multiplies matrices, was not found", "No such file)", CTK_13],
    ),
    "a cache that is full": (fake_cupy(add=raising(NO_HOME)), 13000, ["CuPy cannot write its cache", "CUPY_CACHE_DIR"]),
    "another program has the memory": (
        fake_cupy(add=raising(MemoryError("Out of memory allocating 512 bytes"))),
        13000,
        ["cuda:0 cannot run a kernel (MemoryError: Out of memory allocating 512 bytes); nvidia-smi"],
    ),
    "wrong sums": (fake_cupy(add=wrong), 13000, ["cuda:0 gave a wrong sum; check"]),
    "wrong products": (fake_cupy(matmul=wrong), 13000, ["cuda:0 gave a wrong matrix product; check"]),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_cuda_that_cannot_be_used(with_cupy: Install, problem: str) -> None:
    module, driver, words = PROBLEMS[problem]
    with_cupy(module, driver)
    with pytest.raises(gpubp.DeviceError) as caught:
        gpubp.get_backend("cuda")
    for word in [*words, "'cpu' runs on the CPU"]:
        assert word in str(caught.value)
    backend = gpubp.get_backend("auto")
    assert backend.name == "cpu"
    assert backend.fallback is not None
    assert "\n" not in backend.fallback
    assert len(backend.fallback) < 400
    assert gpubp.MLP([2, 2], seed=0).fallback == backend.fallback
    cpu, cuda = gpubp.devices()
    assert (cpu["device"], cpu["available"]) == ("cpu", "yes")
    assert cuda == {
        "device": "cuda:0" if detection.count() else "cuda",
        "available": "no",
        "reason": backend.fallback,
    }


@pytest.mark.parametrize(("capability", "runtime"), [("70", 12090), ("75", 13020), ("90", 13020), ("121", 13020)])
def test_cards_that_this_cupy_knows(with_cupy: Install, capability: str, runtime: int) -> None:
    with_cupy(fake_cupy(capability=capability, runtime=runtime))
    assert detection.why_not() is None


@pytest.mark.parametrize("count", [0, 1, CUDARuntimeError(100)])
def test_devices_that_a_variable_hides(
    with_cupy: Install, monkeypatch: pytest.MonkeyPatch, count: int | Exception
) -> None:
    with_cupy(fake_cupy(count))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides all others" in str(detection.why_not(1))


def test_a_device_that_works(with_cupy: Install) -> None:
    with_cupy(fake_cupy(1))
    assert detection.why_not() is None
    assert (gpubp.get_backend("auto").name, gpubp.get_backend("auto").fallback) == ("cuda:0", None)
    assert gpubp.get_backend("cpu").fallback is None
    cpu, cuda = gpubp.devices()
    assert cpu["device"] == "cpu"
    assert cuda == {
        **{"device": "cuda:0", "available": "yes", "name": "A Card", "compute_capability": "9.0"},
        **{"memory": 4 << 30, "memory_free": 3 << 30, "library": "CuPy 14.0"},
        **{"driver": "13.0", "runtime": "13.2", "nvrtc": "13.0"},
        "steps": (
            "launched kernel by kernel: captured ones were never measured on a GPU, GPUBP_GRAPHS=1 turns them on"
        ),
    }
    with pytest.raises(gpubp.DeviceError, match="this machine has 1 CUDA device, cuda:3 is not among them"):
        gpubp.get_backend("cuda:3")


def test_one_of_two_devices_that_works(with_cupy: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cupy(fake_cupy(2))
    monkeypatch.setattr(detection, "_no_kernel", lambda xp, index: "it is broken" if index == 0 else None)
    _, first, second = gpubp.devices()
    assert first == {"device": "cuda:0", "available": "no", "reason": "it is broken"}
    assert (second["device"], second["available"]) == ("cuda:1", "yes")


def test_what_is_known_of_the_processor() -> None:
    cpu = gpubp.devices()[0]
    assert {"name", "cores", "library", "blas"} <= set(cpu)
    assert cpu["cores"] >= 1
    assert cpu["library"] == f"NumPy {np.__version__}"
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    assert cpu["name"] in model[0] if model else cpu["name"]
    if "openblas" in cpu["blas"]:  # conftest.py asks for one thread
        assert cpu.get("blas_threads", 1) == 1


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "", None, 0])
def test_a_device_of_no_kind(device: Any) -> None:
    with pytest.raises(gpubp.DataError, match="device must be"):
        gpubp.get_backend(device)


def test_this_machine_without_a_stand_in() -> None:
    """Whatever is or is not installed here: a reason or none, in one line."""
    reason = detection.why_not(0)
    assert reason is None or ("; " in reason and "\n" not in reason)
    assert detection.why_not(99)


def test_a_checkout_installs_through_dev_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUBP_COMMAND", "python3 dev.py")
    assert detection._install(12040) == "GPUBP_EXTRAS=cuda12 python3 dev.py devices"
    monkeypatch.setenv("GPUBP_COMMAND", "gpubp")
    assert detection._install(12040) == "pip install 'cupy-cuda12x[ctk]'"
