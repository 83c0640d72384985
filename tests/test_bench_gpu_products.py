"""bench.gpu's matrix products without a GPU: what is expected of them, and how they are handed to cuBLASLt."""

import ctypes
import itertools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.gpu import cublaslt, products


class OnHost(np.ndarray):
    """A NumPy array with the address of one of CuPy's, and fetched like it."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self) -> Any:
        return np.asarray(self)


class HostProduct:
    """What Product computes, in NumPy."""

    def __init__(self, kind: str, m: int, n: int, k: int, **options: Any) -> None:
        self.shape, self.transposed = (m, n, k), options.get("transposed", (False, False))
        self.scalars = (options.get("alpha", 1.0), options.get("beta", 0.0))

    def plan(self) -> "HostProduct":
        return self

    def close(self) -> None:
        pass

    def __call__(self, a: Any, b: Any, d: Any, scalars: Any = None) -> None:
        alpha, beta = self.scalars if scalars is None else scalars
        left, right = (x.T if t else x for x, t in zip((a, b), self.transposed, strict=True))
        assert (*d.shape, left.shape[1]) == self.shape
        d[...] = alpha * (left @ right) + beta * d


@pytest.fixture
def _on_numpy(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """The products' questions without a device."""
    synchronize = SimpleNamespace(synchronize=lambda: None)
    fake = SimpleNamespace(
        asarray=lambda a, dtype=None: np.array(a, dtype).view(OnHost),
        zeros=lambda *args: np.zeros(*args).view(OnHost),
        cuda=SimpleNamespace(Device=lambda: synchronize),
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(products, "Product", HostProduct)
    monkeypatch.setattr(products, "matrix", lambda shape, kind, seed: rng.uniform(-1, 1, shape).view(OnHost))
    monkeypatch.setattr(products, "library", lambda: SimpleNamespace(cublasLtGetVersion=lambda: 1))


@pytest.mark.usefixtures("_on_numpy")
def test_accumulation_in_place_is_held_against_what_it_should_be() -> None:
    found = products.in_place("float64")
    assert set(found) == {"A B", "A B'", "A' B"}
    assert all(answer["right"] for answer in found.values())


@pytest.mark.usefixtures("_on_numpy")
def test_a_captured_schedule_gives_every_replay_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(grid: Any, block: Any, args: Any) -> None:
        scalars, rates, step = args
        scalars[:] = rates[step[0]], 1.0
        step[0] += 1

    def captured(body: Callable[[], None]) -> Callable[[], None]:
        body()
        return body

    monkeypatch.setattr(products, "schedule_kernel", lambda: kernel)
    monkeypatch.setattr(products, "captured", captured)
    assert products.capture("float32")["right"]
    monkeypatch.setattr(products, "captured", lambda body: body)  # a graph that has lost a launch
    assert not products.capture("float32")["right"]


@pytest.mark.usefixtures("_on_numpy")
def test_the_sums_of_a_bias_gradient_are_checked() -> None:
    found = products.epilogues("float32")
    assert found["RELU"] == {"found": "runs"}
    assert not found["BGRADA"]["right"]  # NumPy's product wrote no sums


def test_matrices_are_uniform_and_rounded_as_bfloat16() -> None:
    bits = np.array([0x3F80, 0xBF00, 0x4049], np.uint16).view(OnHost)
    np.testing.assert_allclose(products.as_float64(bits), [1.0, -0.5, 3.140625])


def test_descriptors_can_be_made_without_a_gpu() -> None:
    pytest.importorskip("cuda.pathfinder")
    try:
        cublaslt.library()
    except RuntimeError as error:
        pytest.skip(f"no cuBLASLt: {error}")
    for kind, epilogue in itertools.product(cublaslt.KINDS, cublaslt.EPILOGUES):
        cublaslt.Product(
            kind, 256, 128, 64, transposed=(True, False), epilogue=epilogue, bias=256, aux=512, aux_ld=128
        ).close()


class ColumnsFirst:
    """A cuBLASLt that computes as its manual says, on host memory; it knows nothing of rows first."""

    def __init__(self) -> None:
        self.layouts: list[tuple[int, int, int]] = []
        self.operations: dict[int, int] = {}

    def cublasLtMatmulDescCreate(self, *_: Any) -> int:  # noqa: N802
        return 0

    def cublasLtMatmulDescSetAttribute(self, _: Any, attribute: int, value: Any, size: int) -> int:  # noqa: N802
        self.operations[attribute] = value._obj.value
        return 0

    def cublasLtMatrixLayoutCreate(self, layout: Any, kind: int, rows: int, columns: int, leading: int) -> int:  # noqa: N802
        self.layouts.append((rows, columns, leading))
        layout._obj.value = len(self.layouts)
        return 0

    def matrix(self, address: int, layout: Any) -> Any:
        rows, columns, leading = self.layouts[layout.value - 1]
        memory = (ctypes.c_float * (leading * columns)).from_address(address)
        return np.frombuffer(memory, np.float32).reshape(columns, leading)[:, :rows].T

    def cublasLtMatmul(self, *args: Any) -> int:  # noqa: N802
        _, _, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, *_ = args
        scalars = [ctypes.c_float.from_address(address).value for address in (alpha, beta)]
        a, b = self.matrix(a, a_layout), self.matrix(b, b_layout)
        a = a.T if self.operations[cublaslt.TRANSA] else a
        b = b.T if self.operations[cublaslt.TRANSB] else b
        self.matrix(d, d_layout)[...] = scalars[0] * (a @ b) + scalars[1] * self.matrix(c, c_layout)
        return 0


@pytest.mark.parametrize("transposed", list(itertools.product((False, True), repeat=2)))
def test_rows_first_matrices_are_handed_over_as_columns_first(
    transposed: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    fake = ColumnsFirst()
    monkeypatch.setattr(cublaslt, "library", lambda: fake)
    monkeypatch.setattr(cublaslt, "device_state", lambda: (None, SimpleNamespace(data=SimpleNamespace(ptr=0))))
    stream = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=0))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=stream))
    m, n, k = 3, 4, 5
    a = rng.random((k, m) if transposed[0] else (m, k), np.float32)
    b = rng.random((n, k) if transposed[1] else (k, n), np.float32)
    d = rng.random((m, n), np.float32)
    expected = 2 * (a.T if transposed[0] else a) @ (b.T if transposed[1] else b) + 0.5 * d
    product = cublaslt.Product("float32", m, n, k, transposed=transposed, alpha=2, beta=0.5)
    product.plans = [cublaslt.Heuristic()]
    product(*(SimpleNamespace(data=SimpleNamespace(ptr=x.ctypes.data)) for x in (a, b, d)))
    np.testing.assert_allclose(d, expected, rtol=1e-6)
