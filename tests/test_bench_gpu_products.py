"""bench.gpu's matrix products without a GPU: what is expected of them, and how they are handed to cuBLASLt."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.gpu import products


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
