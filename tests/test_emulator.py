"""The emulated device: toy kernels run as on a device, and planted bugs are caught, each by what should catch it."""

import re
import time
from typing import Any

import pytest
from emulator.build import CompileError, library, program, run

pytestmark = pytest.mark.toolchain

KERNELS = r"""
template <typename T>
struct Out {
  T* data;
};

// The sums of blocks of `blockDim.x` elements, pairwise.
template <bool Complete, typename T>
__device__ void sum(Size count, const T* x, Out<T> total) {
  __shared__ T partial[64];
  Size i = blockIdx.x * Size(blockDim.x) + threadIdx.x;
  partial[threadIdx.x] = i < count ? x[i] : T(0);
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];  // RACE
    if (Complete) __syncthreads();
  }
  if (threadIdx.x == 0) total.data[blockIdx.x] = partial[0];
}

extern "C" __global__ void __launch_bounds__(64) block_sum(Size count, const float* x, Out<float> total) {
  sum<true>(count, x, total);
}

extern "C" __global__ void no_barrier(Size count, const float* x, Out<float> total) { sum<false>(count, x, total); }

// Lanes of a team of `width` share a sum, again and again: team k does so k + 1 times, apart from the other teams.
extern "C" __global__ void team_sums(Size width, const float* x, Out<float> total) {
  unsigned lane = threadIdx.x % 32, team = lane / unsigned(width);
  unsigned mask = unsigned(((1ull << width) - 1) << (team * unsigned(width)));
  float value = x[threadIdx.x];
  for (unsigned round = 0; round <= team; ++round)
#pragma unroll
    for (int other = int(width) / 2; other; other /= 2) value += __shfl_xor_sync(mask, value, other, int(width));
  total.data[threadIdx.x] = value;
}

// What a shuffle gives in each lane, of doubles, in groups of `width` with the whole warp's mask.
extern "C" __global__ void groups(Size width, const float* x, Out<float> total) {
  double value = x[threadIdx.x];
  total.data[threadIdx.x] = float(__shfl_xor_sync(0xffffffffu, value, 5, int(width)));
}

// Who had each turn; the last element counts them.
extern "C" __global__ void places(Size, const float*, Out<float> out) {
  int block = blockIdx.y * gridDim.x + blockIdx.x, thread = threadIdx.y * blockDim.x + threadIdx.x;
  out.data[int(out.data[127]++)] = float(1000 * block + thread);
}

extern "C" __global__ void unwritten_shared(Size, const float*, Out<float> out) {
  __shared__ float values[32];
  if (threadIdx.x % 2 == 0) values[threadIdx.x] = 1;
  __syncthreads();
  out.data[threadIdx.x] = values[threadIdx.x];
}

extern "C" __global__ void double_it(Size count, const float* x, Out<float> out) {
  Size i = blockIdx.x * Size(blockDim.x) + threadIdx.x;
  if (i < count) out.data[i] = 2 * x[i];
}

// -- planted bugs -----------------------------------------------------------------------------------------------------

extern "C" __global__ void neighbour_race(Size, const float* x, Out<float> out) {
  __shared__ float values[64];
  __syncthreads();
  values[threadIdx.x] = x[threadIdx.x];
  out.data[blockIdx.x * blockDim.x + threadIdx.x] = values[(threadIdx.x + 1) % blockDim.x];  // RACE
  __syncthreads();
}

// Orders its own threads, so that only the other blocks are in the way.
extern "C" __global__ void block_race(Size, const float*, Out<float> out) {
  __syncthreads();
  __syncthreads();
  if (threadIdx.x == 0) out.data[0] += 1;  // RACE
  __syncthreads();
}

extern "C" __global__ void out_of_bounds(Size count, const float*, Out<float> out) {
  Size i = blockIdx.x * Size(blockDim.x) + threadIdx.x;
  if (i <= count) out.data[i] = 1;  // BOUNDS
}

__attribute__((noinline)) void write(float* place) {
  *place = 1;  // BOUNDS
}

extern "C" __global__ void out_of_shared_bounds(Size, const float*, Out<float> out) {
  __shared__ float values[32];
  write(values + threadIdx.x + 1);
  __syncthreads();
  out.data[threadIdx.x] = values[threadIdx.x];
}

extern "C" __global__ void misaligned(Size, const float* x, Out<float> out) {
  struct alignas(16) Four {
    float v[4];
  };
  if (threadIdx.x == 0) out.data[0] = reinterpret_cast<const Four*>(x + 1)->v[0];  // BOUNDS
}

extern "C" __global__ void divergent_barrier(Size, const float*, Out<float>) {
  if (threadIdx.x < 7)
    __syncthreads();  // HERE
  else
    __syncthreads();  // THERE
}

extern "C" __global__ void early_end(Size, const float*, Out<float>) {
  if (threadIdx.x >= 40) return;
  __syncthreads();  // HERE
}

extern "C" __global__ void missing_lane(Size, const float*, Out<float> out) {
  if (threadIdx.x != 3) out.data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // HERE
  __syncthreads();  // THERE
}

extern "C" __global__ void masks_differ(Size, const float*, Out<float>) {
  __shfl_xor_sync(threadIdx.x % 32 < 31 ? 0xffffffffu : 0xffff0000u, 1.0f, 1);  // HERE
}

extern "C" __global__ void not_in_own_mask(Size, const float*, Out<float>) {
  __shfl_xor_sync(0x0000ffffu, 1.0f, 1);  // HERE
}

extern "C" __global__ void reads_outside_mask(Size, const float*, Out<float>) {
  unsigned half = threadIdx.x % 32 / 16;
  __shfl_xor_sync(0xffffu << 16 * half, 1.0f, 16);  // HERE
}

extern "C" __global__ void odd_width(Size, const float*, Out<float>) {
  __shfl_xor_sync(0xffffffffu, 1.0f, 1, 12);  // HERE
}
"""

# Launches a kernel as told and prints what came of it.
MAIN = r"""
#include <cstdio>
#include <cstdlib>
#include <memory>

using Size = long long;
#include "kernels.cuh"

int main(int, char** words) {
  void (*kernel)(Size, const float*, Out<float>) = nullptr;
#define KERNEL(name) if (!std::strcmp(words[1], #name)) kernel = name;
  KERNELS
  auto order = emulator::Order(std::atoi(words[2]));
  unsigned seed = unsigned(std::atoi(words[3]));
  dim3 grid{unsigned(std::atoi(words[4])), unsigned(std::atoi(words[5]))};
  dim3 block{unsigned(std::atoi(words[6])), unsigned(std::atoi(words[7]))};
  Size count = std::atoi(words[8]);
  int launches = std::atoi(words[9]);
  const int SIZE = 128;
  alignas(16) float x[SIZE];
  std::unique_ptr<float[]> data(new float[SIZE]());
  Out<float> out{data.get()};
  for (int i = 0; i < SIZE; ++i) x[i] = 1 / float(i + 1);
  const float* input = x;
  void* arguments[] = {&count, &input, &out};
  while (launches-- > 0) {
    std::memset(data.get(), 0, SIZE * sizeof(float));
    const char* error = emulator::launch(kernel, grid, block, arguments, order, seed);
    if (error) return std::printf("%s\n", error), 3;
  }
  for (int i = 0; i < SIZE; ++i) std::printf("%a\n", double(data[i]));
}
"""

ORDERS = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3)]


def numbered(mark: str, kernel: str) -> str:
    """file:line of the line that is marked so in a kernel."""
    lines = KERNELS.splitlines()
    start = next(i for i, line in enumerate(lines) if f"void {kernel}(" in line)
    return f"kernels.cuh:{1 + next(i for i in range(start, len(lines)) if f'// {mark}' in lines[i])}"


def launch(
    kernel: str,
    order: tuple[int, int] = (0, 0),
    grid: tuple[int, int] = (2, 1),
    block: tuple[int, int] = (64, 1),
    count: int = 128,
    launches: int = 2,  # what one leaves behind must not disturb the next
    sanitizer: str | None = None,
    flags: tuple[str, ...] = (),
) -> Any:
    names = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(64\) )?(\w+)', KERNELS)
    main = MAIN.replace("  KERNELS\n", "".join(f"  KERNEL({name})\n" for name in names))
    built = program({"main.cpp": main, "kernels.cuh": KERNELS}, sanitizer, *flags)
    return run(built, kernel, *order, *grid, *block, count, launches)


def values(kernel: str, order: tuple[int, int] = (0, 0), **how: Any) -> list[float]:
    done = launch(kernel, order, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return [float.fromhex(word) for word in done.stdout.split()]


def in_all_orders(kernel: str, **how: Any) -> list[float]:
    first, *others = (launch(kernel, order, **how) for order in ORDERS)
    assert first.returncode == 0, first.stdout + first.stderr
    assert all(other.stdout == first.stdout for other in others)  # bit by bit: hexadecimal
    return values(kernel, **how)


X = [1 / (i + 1) for i in range(128)]


def close(got: list[float], wanted: list[float]) -> bool:
    return got == pytest.approx(wanted, rel=1e-6)


def check_barriers(**how: Any) -> None:
    got = in_all_orders("block_sum", count=100, **how)
    assert close(got[:2], [sum(X[:64]), sum(X[64:100])])


def check_teams(width: int, **how: Any) -> None:
    got = in_all_orders("team_sums", count=width, grid=(1, 1), **how)
    for first in range(0, 64, width):
        team = first % 32 // width
        assert close(got[first : first + width], [sum(X[first : first + width]) * width**team] * width), (width, team)


def test_barriers() -> None:
    check_barriers()


@pytest.mark.parametrize("width", [2, 4, 8, 16, 32])
def test_teams_that_part_ways(width: int) -> None:
    check_teams(width)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
def test_a_shuffle_in_groups(width: int) -> None:
    """As PTX has it: a lane beyond the end of the group is not read; the lane reads itself."""
    got = in_all_orders("groups", count=width, grid=(1, 1))
    sources = [i ^ 5 if i ^ 5 <= (i | width - 1) else i for i in range(64)]
    assert close(got[:64], [X[source] for source in sources])


def test_the_places_of_threads_and_the_order_of_turns() -> None:
    shape: dict[str, Any] = {"grid": (1, 1), "block": (16, 4)}
    assert values("places", (0, 0), **shape)[:64] == list(range(64))
    assert values("places", (1, 0), **shape)[:64] == list(range(63, -1, -1))
    shuffled = [values("places", (2, seed), **shape)[:64] for seed in (1, 2, 1)]
    assert sorted(shuffled[0]) == list(range(64))
    assert shuffled[0] == shuffled[2] != shuffled[1]


def test_the_order_of_blocks() -> None:
    shape: dict[str, Any] = {"grid": (3, 2), "block": (1, 1)}
    forward, reverse, *shuffled = (
        [value // 1000 for value in values("places", order, **shape)[:6]] for order in ORDERS
    )
    assert (forward, reverse) == ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])
    assert all(sorted(blocks) == forward != blocks for blocks in shuffled)


def test_shared_memory_begins_as_nan() -> None:
    got = values("unwritten_shared", block=(32, 1))[:32]
    assert [value != value for value in got] == [False, True] * 16


def test_speed() -> None:
    """2048 threads that never wait take some 30 µs; the bound only tells switches of stacks from system calls."""
    start = time.perf_counter()
    values("double_it", grid=(8, 1), block=(256, 1), launches=2000)
    assert (time.perf_counter() - start) / 2000 < 200e-6


# -- what would hang or be undefined is reported ----------------------------------------------------------------------


def refused(kernel: str, order: tuple[int, int] = (0, 0), **how: Any) -> str:
    done = launch(kernel, order, **how)
    assert done.returncode == 3, done.stdout + done.stderr
    return str(done.stdout)


REPORTS = {
    "divergent_barrier": ("divergent __syncthreads in block", "HERE", "THERE"),
    "early_end": ("each waits for the block in __syncthreads", "HERE", "(40,0,0) and 23 more, each has ended"),
    "missing_lane": ("and 30 more, each waits for lane 3 in __shfl_xor_sync with mask 0xffffffff", "HERE", "THERE"),
    "masks_differ": ("(0,0,0) and 61 more, each waits for lane 31 in", "HERE"),
    "not_in_own_mask": ("it needs lane 16, which its mask 0x0000ffff leaves out", "HERE"),
    "reads_outside_mask": ("it needs lane 16, which its mask 0x0000ffff leaves out", "HERE"),
    "odd_width": ("the width must be 1, 2, 4, 8, 16 or 32, not 12", "HERE"),
}


@pytest.mark.parametrize("kernel", REPORTS)
def test_reports(kernel: str) -> None:
    for word in REPORTS[kernel]:
        assert (numbered(word, kernel) if word.isupper() else word) in refused(kernel)


def test_a_divergent_barrier_is_found_in_any_order() -> None:
    for kernel in ("divergent_barrier", "early_end", "missing_lane"):
        assert all(numbered("HERE", kernel) in refused(kernel, order) for order in ORDERS)


@pytest.mark.parametrize("block", [(1025, 1), (33, 32), (0, 1)])
def test_a_block_of_bad_size(block: tuple[int, int]) -> None:
    message = f"a grid of (2,1,1) blocks of ({block[0]},{block[1]},1) threads is outside CUDA's limits"
    assert message in refused("double_it", block=block)


def test_a_grid_of_bad_size() -> None:
    assert "outside CUDA's limits" in refused("double_it", grid=(1, 65536))


def test_a_missing_barrier_changes_the_result() -> None:
    right = values("block_sum")[:2]
    assert any(values("no_barrier", order)[:2] != right for order in ORDERS)


def test_a_compile_error_names_the_line() -> None:
    with pytest.raises(CompileError, match=r"bad\.cuh:2:\d+: error: .*nothing_of_the_sort"):
        library({"main.cu": '#include "bad.cuh"\n', "bad.cuh": "\nint x = nothing_of_the_sort;\n"})


# -- sanitizers -------------------------------------------------------------------------------------------------------

SANITIZED = ["thread", "address"]


@pytest.mark.check
@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_right_kernels_raise_no_alarm(sanitizer: str) -> None:
    check_barriers(sanitizer=sanitizer)
    check_teams(8, sanitizer=sanitizer)
    # More threads than ThreadSanitizer has room for.
    assert close(values("double_it", grid=(40, 1), sanitizer=sanitizer), [2 * x for x in X])


@pytest.mark.check
@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("kernel", ["no_barrier", "neighbour_race", "block_race"])
def test_races(kernel: str, order: tuple[int, int]) -> None:
    done = launch(kernel, order, sanitizer="thread")
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert numbered("RACE", "sum" if kernel == "no_barrier" else kernel) in done.stderr
    assert all("kernels.cuh" in summary for summary in re.findall("SUMMARY.*", done.stderr))  # none is the emulator's


@pytest.mark.check
@pytest.mark.parametrize("kernel", ["out_of_bounds", "out_of_shared_bounds", "misaligned"])
def test_bounds(kernel: str) -> None:
    done = launch(kernel, grid=(3, 1), block=(32 if "shared" in kernel else 64, 1), sanitizer="address")
    assert done.returncode not in (0, 3)
    assert numbered("BOUNDS", "write" if "shared" in kernel else kernel) in done.stderr


@pytest.mark.check
@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_reports_under_sanitizers(sanitizer: str) -> None:
    done = launch("missing_lane", sanitizer=sanitizer)
    assert (done.returncode, done.stderr) == (3, "")
    assert numbered("HERE", "missing_lane") in done.stdout


@pytest.mark.check
def test_stacks_switched_by_ucontext() -> None:
    """What other processors than x86-64 use."""
    check_barriers(flags=("-DEMULATOR_UCONTEXT",))
    check_teams(4, flags=("-DEMULATOR_UCONTEXT",))
