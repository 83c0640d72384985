"""Every kernel under g++'s sanitizers, on the emulator: no races, no accesses out of bounds; planted ones are found."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launches import every_launch

from gpubp.backends.sources import Launch, RowLaunch
from gpubp.kernel import SOURCES

pytestmark = [pytest.mark.check, pytest.mark.toolchain]

EMULATOR = Path(__file__).parent / "emulator"
COMMON = ["g++", "-std=c++17", "-O1", "-g", "-ffp-contract=off", f"-I{EMULATOR}"]
HEAD = """
#include <cstdio>
#include <cstdlib>
#include <vector>
static std::vector<void*> rooms;
template <typename T>
static void* number(T value) { T* p = (T*)malloc(sizeof(T)); *p = value; rooms.push_back(p); return p; }
static void* pointer(void* p) { return number(p); }
template <typename T>
static T* array(long size, T value) {
  T* p = (T*)malloc(size ? size * sizeof(T) : 1);  // of exactly this size, so that one byte more is seen
  for (long i = 0; i < size; ++i) p[i] = value;
  rooms.push_back(p);
  return p;
}
template <typename Kernel>
static void launch(const char* name, Kernel kernel, dim3 grid, dim3 block, std::vector<void*> arguments) {
  const char* wrong = emulator::launch(kernel, grid, block, arguments.data(), emulator::RANDOM, 1);
  if (wrong) { printf("%s: %s\\n", name, wrong); exit(1); }
  for (void* room : rooms) free(room);
  rooms.clear();
}
int main() {
"""
C_TYPES = {"f": "float", "d": "double", "I": "unsigned", "q": "Size", "l": "Size", "H": "Half"}
FIRST = {"Size": "0", "Half": "Half{}"}  # what arrays are full of


def driver(calls: dict[Launch | RowLaunch, Any]) -> str:
    """A program that launches each kernel once, on arrays of exactly the sizes that it is given."""
    text, body = "", ""
    for i, (launch, (grid, block, args)) in enumerate(calls.items()):
        symbol = f"{launch.symbol}_{i}"
        text += launch.text.replace(f"{launch.symbol}(", f"{symbol}(")
        made: dict[int, str] = {}  # an array given twice is one
        given = []
        for arg in args:
            kind = C_TYPES[arg.dtype.char]
            if not isinstance(arg, np.ndarray):
                given.append(f"number<{kind}>({arg})")
                continue
            if id(arg) not in made:
                made[id(arg)] = f"a{i}_{len(made)}"
                body += f"  auto {made[id(arg)]} = array<{kind}>({arg.size}, {FIRST.get(kind, 0.5)});\n"
            given.append(f"pointer({made[id(arg)]})")
        sizes = ["{" + ", ".join(map(str, size)) + "}" for size in (grid, block)]
        body += f'  launch("{symbol}", {symbol}, {", ".join(sizes)}, {{{", ".join(given)}}});\n'
    return text + HEAD + body + "}\n"


def sanitized(folder: Path, text: str, sanitizer: str) -> "subprocess.CompletedProcess[str]":
    """The emulator itself is compiled without: the sanitizer is to watch the kernels."""
    for name in ("emulator", "fiber"):
        done = subprocess.run(
            [*COMMON, "-c", EMULATOR / f"{name}.cpp", "-o", folder / f"{name}.o"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (folder / "driver.cpp").write_text(text, encoding="utf-8")
    objects = [folder / "emulator.o", folder / "fiber.o", "-o", folder / "driver", "-lpthread"]
    command = [
        *COMMON,
        f"-I{SOURCES}",
        "-include",
        "emulator.h",
        f"-fsanitize={sanitizer}",
        folder / "driver.cpp",
        *objects,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    environment = {"TSAN_OPTIONS": "exitcode=66:halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run([folder / "driver"], capture_output=True, text=True, env=environment)


def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    calls = every_launch()
    assert len(calls) > 200
    done = sanitized(tmp_path, driver(calls), "address")
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]


def test_no_template_has_a_race(tmp_path: Path) -> None:
    """One kernel for each instance of a template, as a device function knows of no other thread."""
    chosen = {}
    for launch, call in every_launch().items():
        template = (launch.template, launch.width) if isinstance(launch, Launch) else (launch.function, launch.element)
        chosen.setdefault(template, (launch, call))
    assert len(chosen) >= 14
    done = sanitized(tmp_path, driver(dict(chosen.values())), "thread")
    assert done.returncode == 0, (done.stdout + done.stderr)[:4000]


def planted(template: str, old: str, new: str) -> str:
    """A driver of a sum over columns, or another template, with a bug in it."""
    calls = {
        launch: call
        for launch, call in every_launch().items()
        if isinstance(launch, Launch) and launch.template == template and launch.dtype == "float"
    }
    launch = max(calls, key=lambda each: each.width)
    text = driver({launch: calls[launch]})
    source = (SOURCES / f"{template}.cuh").read_text(encoding="utf-8").replace("#pragma once", "")
    assert source.count(old) == 1, "the bug has no place"
    return text.replace(f'#include "{template}.cuh"\n', source.replace(old, new))


def test_a_missing_barrier_is_a_race(tmp_path: Path) -> None:
    done = sanitized(tmp_path, planted("columns", "    __syncthreads();\n", ""), "thread")
    assert done.returncode == 66
    assert "data race" in done.stderr


def test_a_neighbour_race_is_a_race(tmp_path: Path) -> None:
    done = sanitized(tmp_path, planted("rowwise", "if (lane % 32 == 0) parts[lane / 32]", "parts[0]"), "thread")
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.parametrize(
    ("template", "old", "new"),
    [
        ("elementwise", "i + V <= count; i", "i <= count; i"),
        ("columns", "const Size bottom = smaller(top + block_rows, rows);", "const Size bottom = rows + 1;"),
        ("reduction", "i + V <= count; i", "i <= count; i"),
        ("rowwise", "row < rows; row", "row <= rows; row"),
    ],
)
def test_an_access_out_of_bounds_is_found(tmp_path: Path, template: str, old: str, new: str) -> None:
    done = sanitized(tmp_path, planted(template, old, new), "address")
    assert done.returncode
    assert "heap-buffer-overflow" in done.stderr
