"""The roofline model of a training step: what can be worked out by hand."""

import pytest

from bench import roofline
from bench.roofline import BATCHES, CACHE, COPY, NETS, NODE, RATES, Step, epoch, gemm, moved, step_of, streamed, told


def test_what_fits_in_the_cache_moves_faster() -> None:
    assert moved(9e6) == pytest.approx(1e-6)
    assert moved(4.3e9) == pytest.approx(1e-3)
    assert moved(9e6, 4.3e9) == pytest.approx(1.001e-3)


def test_a_product_that_fills_the_device_takes_its_operations_over_the_rate() -> None:
    m, n, k = 256 * 132, 128 * 16, 4096  # 16 whole waves of the largest tile
    assert gemm(m, n, k, "bfloat16") == pytest.approx(2 * m * n * k / RATES["bfloat16"])


def test_a_tile_more_than_a_wave_takes_another_wave() -> None:
    m, n, k = 128 * 11, 128 * 12, 96  # one tile a multiprocessor, too shallow to be cut into parts
    whole = gemm(m, n, k, "float32")
    assert whole == pytest.approx(2 * m * n * k / RATES["float32"])
    # Of half the size, at 0.9 of the rate, 288 tiles take three waves: better than two of the whole ones.
    assert gemm(m + 128, n, k, "float32") == pytest.approx(whole * 3 / 2 / 0.9)


def test_a_product_with_little_to_compute_takes_its_bytes() -> None:
    m, n, k = 1 << 20, 64, 64
    assert gemm(m, n, k, "bfloat16") == pytest.approx(2 * 2 * m * 64 / COPY + 2 * 64 * 64 / CACHE)


def test_a_step_has_three_products_a_layer_less_one() -> None:
    step = Step((784, 128, 10), 128, "float32")
    assert [(which, layer) for which, layer, _ in step.products()] == [
        ("forward", 0),
        ("weights", 0),
        ("forward", 1),
        ("delta", 1),
        ("weights", 1),
    ]
    assert step.floor() == pytest.approx(5 * NODE + sum(seconds for _, _, seconds in step.products()))


@pytest.mark.parametrize("precision", list(RATES))
@pytest.mark.parametrize("net", list(NETS))
def test_nothing_is_below_its_floor_and_a_larger_batch_takes_longer(net: str, precision: str) -> None:
    steps = [Step(NETS[net], batch, precision) for batch in BATCHES]
    for step in steps:
        longest = max(NODE + seconds for _, _, seconds in step.products())
        assert longest <= step.captured() <= step.graphs() <= step.eager()
        assert step.floor() <= step.graphs()
    captured = [step.captured() for step in steps]
    assert captured == sorted(captured)


def test_the_page_has_every_cell_and_says_that_it_is_a_prediction() -> None:
    lines = told().splitlines()
    assert len([line for line in lines if "@" in line and line.count("|") == 8]) == len(NETS) * len(BATCHES) * len(
        RATES
    )
    assert lines[0] == "| target | wanted | predicted |"
    assert "Nothing here is measured" in (roofline.__doc__ or "")


def test_a_small_step_is_mostly_nodes() -> None:
    """Rows, targets, two products with a kernel behind each, a delta's product and kernel, the update: nine, and one.

    What goes beside has no node on the way: two gradients of weights, that of a bias, the cost.
    """
    step = Step((8, 8, 2), 4, "float32")
    assert 10 * NODE < step.device() < 11 * NODE
    assert step.device("adam") > step.device()


def test_an_epoch_of_mnist_has_469_steps() -> None:
    seconds, floor = epoch("sgd")
    step = step_of("784-512-256-10@128 float32")
    assert floor == pytest.approx(469 * step.floor())
    assert floor < seconds == pytest.approx(469 * (NODE + step.device()))


def test_rows_from_the_host_come_no_faster_than_the_host_makes_them() -> None:
    share, step, copy, host = streamed()
    assert (copy, host) == pytest.approx((8192 * 784 * 4 / 50e9, 8192 * 784 * 4 / 40e9))
    assert share == pytest.approx(step / max(step, copy, host))
