"""Every kernel compiles for every architecture, and its machine code is what was meant; no GPU is needed for that."""

import re
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from launches import every_launch

from gpubp.backends.cubins import Cubins
from gpubp.backends.sources import Launch, RowLaunch
from gpubp.errors import DeviceError

pytestmark = [pytest.mark.check, pytest.mark.cuda_toolchain]

ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]
LAUNCHES = list(every_launch())
FUNCTION = re.compile(r"^\.text\.(\w+):$(.*?)(?=^\.text\.|\Z)", re.M | re.S)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.M)
DOUBLE = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)\b|MUFU\.\w*64|F2F\.(F64|F32\.F64)|[IF]2[IF]\.F64|I2F\.F64")
WIDEST = {"float": 4, "double": 2}
LOCAL = re.compile(r"(LDL|STL)\b")


def compiled(text: str, architecture: str) -> bytes:
    cupy: Any = pytest.importorskip("cupy")
    cuda = SimpleNamespace(nvrtc=cupy.cuda.nvrtc, Device=lambda index: SimpleNamespace(compute_capability=architecture))
    return Cubins(SimpleNamespace(cuda=cuda), 0)._compiled("all", text)


def precision(launch: Launch | RowLaunch) -> str:
    return launch.dtype if isinstance(launch, Launch) else "double" if launch.element == "double" else "float"


def disassembled(cubin: bytes, folder: Path) -> dict[str, list[str]]:
    """By function: its instructions."""
    nvidia: Any = pytest.importorskip("nvidia")
    (tool,) = (file for root in nvidia.__path__ for file in Path(root).glob("**/bin/nvdisasm"))
    file = folder / "all.cubin"
    file.write_bytes(cubin + b"\0")  # the byte that CuPy's getCUBIN drops
    done = subprocess.run([tool, str(file)], capture_output=True, text=True, check=True)
    return {name: INSTRUCTION.findall(body) for name, body in FUNCTION.findall(done.stdout)}


@pytest.fixture(scope="module", params=[(a, p) for a in ARCHITECTURES for p in ("float", "double")], ids="-".join)
def machine_code(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """(precision, [(launch, its instructions)]) of all kernels, in one compilation."""
    architecture, kind = request.param
    launches = [launch for launch in LAUNCHES if precision(launch) == kind]
    parts = [launch.text.replace(f"{launch.symbol}(", f"{launch.symbol}_{i}(") for i, launch in enumerate(launches)]
    found = disassembled(compiled("".join(parts), architecture), tmp_path_factory.mktemp(f"sm_{architecture}"))
    return kind, [(launch, found[f"{launch.symbol}_{i}"]) for i, launch in enumerate(launches)]


def test_all_kernels_compile_as_meant(machine_code: tuple[str, Any]) -> None:
    kind, functions = machine_code
    assert len(functions) > 100
    for launch, instructions in functions:
        used = Counter(instructions)
        assert len(instructions) > 10, launch
        doubles = [name for name in used if DOUBLE.match(name)]
        assert bool(doubles) <= (kind == "double"), f"{doubles} in {launch}"
        template = launch.template if isinstance(launch, Launch) else "rows"
        if kind == "float" or template != "rowwise":  # whose exp in double is a call: sm_120 saves registers
            assert not [name for name in used if LOCAL.match(name)], f"registers spill in {launch}"
        if template in ("elementwise", "columns", "reduction") and launch.width == WIDEST[kind]:
            wide = {name.split(".")[0] for name in used if ".128" in name}
            assert "LDG" in wide, f"no 16-byte loads in {launch}"
            writes = any("Out<" in way for way, _ in launch.parameters)
            assert "STG" in wide or not writes, f"no 16-byte stores in {launch}"
    if kind == "double":
        assert any(DOUBLE.match(name) for _, instructions in functions for name in instructions), "DOUBLE finds nothing"


def test_planted_faults_are_seen(tmp_path: Path) -> None:
    """A bare literal that makes a float kernel double, an array that goes to local memory, 4-byte accesses."""
    launch = next(launch for launch in LAUNCHES if isinstance(launch, Launch) and launch.function == "sgd")
    body = "sgd<float>(each...);"
    assert body in launch.text
    planted = {
        DOUBLE: " double s = 0; ((s += 0.1 * each), ...); ((each = float(s)), ...);",
        LOCAL: " volatile float a[64]; int i = 0; ((a[i++ + int(each)] = each), ...); ((each = a[int(each)]), ...);",
    }
    for pattern, fault in planted.items():
        ((_, instructions),) = disassembled(compiled(launch.text.replace(body, body + fault), "90"), tmp_path).items()
        assert [name for name in instructions if pattern.match(name)], pattern
    narrow = launch.text.replace("elementwise<4>", "elementwise<1>")
    assert narrow != launch.text
    ((_, instructions),) = disassembled(compiled(narrow, "90"), tmp_path).items()
    assert not [name for name in instructions if ".128" in name]


def test_a_kernel_that_does_not_compile_is_named_with_the_log() -> None:
    with pytest.raises(DeviceError, match=r"kernel all does not compile with .*-arch=sm_90:\n(.|\n)*nonsense"):
        compiled('#include "elementwise.cuh"\nextern "C" __global__ void f() { nonsense(); }\n', "90")
