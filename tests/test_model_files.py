"""Model files: exact round trips, torch's names and nothing else, whole or not at all, and no damage unnoticed."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gpubp

RNG = np.random.default_rng(11)
X, Y = RNG.normal(size=(7, 4)), RNG.integers(0, 3, 7)
MASK = np.array([[1, 0, 1, 1, 0]] * 4)
METADATA = {"note": "holdout", "classes": ["a", "b", "c"], "tiny": 1.5e-07}


def everything(dtype: str) -> gpubp.MLP:
    """A network with one of each thing that a file has to keep, trained for a few steps."""
    net = gpubp.MLP(
        [4, 5, 3, 3],
        [gpubp.LeakyReLU(0.125), gpubp.ELU(0.7)],
        "softmax",
        gpubp.CrossEntropy(reduction="sum"),
        use_bias=[True, False, True],
        masks=[MASK, None, None],
        dropout=[0.0, 0.3, 0.1],
        init=gpubp.Uniform(0.3),
        dtype=dtype,
        device="cpu",
        seed=2**40 + 3,
    )
    net.fit(X, Y, epochs=3, batch_size=3, verbose=0)
    net.metadata = METADATA
    return net


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    everything("float32").save(path)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(dtype: str, tmp_path: Path) -> None:
    net = everything(dtype)
    net.save(tmp_path / "model.safetensors")
    loaded = gpubp.load(tmp_path / "model.safetensors", device="cpu")
    for then, now in zip(net.get_parameters(), loaded.get_parameters(), strict=True):
        for one, other in zip(then, now, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one, other, strict=True)
    np.testing.assert_array_equal(net.forward(X), loaded.forward(X), strict=True)
    assert (loaded.seed, loaded.dtype, loaded.metadata) == (net.seed, dtype, METADATA)
    assert [repr(a) for a in loaded.activations] == [repr(a) for a in net.activations]
    assert repr(loaded.loss) == "CrossEntropy(reduction='sum')"
    # What is not seen in the outputs (masks, dropout, the counters of steps and epochs) is seen in further training.
    histories = [n.fit(X, Y, epochs=2, batch_size=3, verbose=0)["loss"] for n in (net, loaded)]
    assert histories[0] == histories[1]
    np.testing.assert_array_equal(net.weights[1], loaded.weights[1])
    assert not np.any(loaded.weights[0][MASK == 0])


def test_tensors(saved: Path) -> None:
    tensors, net = load_file(saved), gpubp.load(saved)
    assert set(tensors) == {"0.weight", "0.bias", "2.weight", "4.weight", "4.bias"}
    for layer in range(3):
        np.testing.assert_array_equal(tensors[f"{2 * layer}.weight"], net.weights[layer].T, strict=True)
    np.testing.assert_array_equal(tensors["4.bias"], net.biases[2], strict=True)


def rewritten(saved: Path, path: Path, state: Any = None, **changes: Any) -> Path:
    """The file with other tensors (None takes one away) or other metadata."""
    header = json.loads(saved.read_bytes()[8 : 8 + int.from_bytes(saved.read_bytes()[:8], "little")])
    kept = json.loads(header["__metadata__"]["gpubp"])
    del kept["crc32"]
    tensors = {**load_file(saved), **changes}
    described = {**kept, **state} if isinstance(state, dict) else kept if state is None else state
    save_file({k: v for k, v in tensors.items() if v is not None}, path, {"gpubp": json.dumps(described)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, r"lacks '0\.weight'"),
        ({"4.bias": None}, r"lacks '4\.bias'"),
        ({"2.weight": np.zeros((5, 3), "float32")}, r"2\.weight .*\(5, 3\).*\(3, 5\)"),
        ({"2.weight": np.zeros((3, 5), "float64")}, r"2\.weight is float64"),
        ({"2.bias": np.zeros(3, "float32")}, r"no layer has .*2\.bias"),
        ({"0.weight": np.full((5, 4), np.nan, "float32")}, r"not finite"),
        ({"state": {"format": 2}}, "format 2.*reads format 1; upgrade"),
        ({"state": {"format": None}}, "format None"),
        ({"state": {"structure": {}}}, "lacks 'sizes'"),
        ({"state": {"structure": None}}, "damaged"),
        ({"state": {"structure": "text"}}, "damaged"),
        ({"state": {"seed": "x"}}, "seed"),
        ({"state": {"steps": [1]}}, "int"),
        ({"state": {"metadata": 3}}, "metadata is a int"),
        ({"state": [1, 2]}, "JSON object"),
        ({"state": "text"}, "JSON object"),
    ],
    ids=str,
)
def test_a_file_that_does_not_fit_together(saved: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(gpubp.ModelFileError, match=message) as raised:
        gpubp.load(rewritten(saved, tmp_path / "changed.safetensors", **change))
    assert "changed.safetensors" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sizes", [4, 5, 3]),
        ("activations", []),
        ("activations", [{"name": "relu"}] * 3),
        ("activations", [{"name": "leaky_relu", "slope": "steep"}, {"name": "relu"}, {"name": "softmax"}]),
        ("activations", [{"name": "relu", "unknown": 1}, {"name": "relu"}, {"name": "softmax"}]),
        ("activations", [{}, {"name": "relu"}, {"name": "softmax"}]),
        ("loss", {"name": "huge"}),
        ("loss", 3),
        ("use_bias", [True]),
        ("masks", ["//8=", None, None]),
        ("masks", [3, None, None]),
        ("dropout", "half"),
        ("dtype", "float99"),
        ("initializer", {"name": "uniform", "scale": None}),
    ],
)
def test_a_structure_that_makes_no_network(saved: Path, tmp_path: Path, name: str, value: Any) -> None:
    structure = {**gpubp.load(saved)._network.structure.config(), name: value}
    with pytest.raises(gpubp.ModelFileError, match="changed"):
        gpubp.load(rewritten(saved, tmp_path / "changed.safetensors", {"structure": structure}))


def test_files_that_are_none(tmp_path: Path) -> None:
    foreign, text, empty = tmp_path / "foreign.safetensors", tmp_path / "text", tmp_path / "empty"
    save_file({"0.weight": np.zeros((2, 2), "float32")}, foreign)
    text.write_text("not a model\n" * 50)
    empty.touch()
    for path in (foreign, text, empty, tmp_path, tmp_path / "absent" / "model.safetensors"):
        with pytest.raises(gpubp.ModelFileError, match=path.name):
            gpubp.load(path)
        with pytest.raises(gpubp.ModelFileError, match=path.name):
            gpubp.load(str(path))


def test_a_device_that_is_not_there_is_no_fault_of_the_file(saved: Path) -> None:
    with pytest.raises(gpubp.DeviceError, match="cuda:999"):
        gpubp.load(saved, device="cuda:999")


def test_a_flipped_bit_is_noticed(saved: Path, tmp_path: Path) -> None:
    content, path, net, harmless = saved.read_bytes(), tmp_path / "flipped.safetensors", gpubp.load(saved), []
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            loaded = gpubp.load(path)
        except gpubp.ModelFileError:
            continue
        assert json.dumps(loaded._state()) == json.dumps(net._state())
        assert all(np.array_equal(one, other) for one, other in zip(loaded.weights, net.weights, strict=True))
        harmless.append(at)
    assert len(harmless) < 5, "in the name of the checksum, or in blanks"


def test_a_file_without_a_checksum(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path / "other.safetensors", **{"4.bias": np.ones(3, "float32")})
    assert gpubp.load(path).biases[2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("end", [0, 1, 7, 8, 9, 100, -300, -4, -1])
def test_a_file_cut_off(saved: Path, tmp_path: Path, end: int) -> None:
    (tmp_path / "cut.safetensors").write_bytes(saved.read_bytes()[:end])
    with pytest.raises(gpubp.ModelFileError, match=r"cannot read .*cut\.safetensors"):
        gpubp.load(tmp_path / "cut.safetensors")


def test_a_file_with_more_at_its_end(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "more.safetensors").write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(gpubp.ModelFileError, match=r"cannot read .*more\.safetensors"):
        gpubp.load(tmp_path / "more.safetensors")


def edited(saved: Path, path: Path, old: str, new: str) -> Path:
    """The file with other text in its header, and no checksum."""
    content = saved.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = re.sub(r', \\"crc32\\": \\"\w+\\"', "", content[8:start].decode())
    assert "crc32" not in header
    assert old in header
    changed = header.replace(old, new, 1).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[start:])
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"\"seed\": ", r"\"seed\": 1, \"seed\": ", "a key occurs twice"),
        ('"0.bias":', '"0.bias":3,"0.bias":', "cannot read .* as a safetensors file"),
        ('"__metadata__":{', '"__metadata__":{"other":3,', "cannot read .* as a safetensors file"),
        ('"__metadata__":{', '"__metadata__":[{', "cannot read"),
        ("1.5e-07", "NaN", "NaN is no JSON"),
        ("1.5e-07", "-Infinity", "-Infinity is no JSON"),
        ("1.5e-07", "9" * 5000, "damaged"),
        ("1.5e-07", "[" * 20_000 + "]" * 20_000, "nested too deeply"),
        ("1.5e-07", r"\"\ud800\"", "cannot read .* as a safetensors file"),
        (r"\"steps\": ", r"\"steps\": -", "steps must be"),
        (r"\"steps\": ", r"\"epochs\": ", "twice"),
        (r"\"steps\": ", r"\"stepz\": ", "lacks 'steps'"),
        (r"\"dropout\": ", r"\"drpout\": ", "lacks 'dropout'"),
        (r"\"slope\": 0.125", r"\"slope\": 1" + "0" * 400, "cannot make a network"),
        ('"shape":[5,4]', '"shape":[4,5]', r"\(4, 5\)"),
        ('"shape":[5,4]', '"shape":[20]', r"\(20,\)"),
        ('"shape":[5,4]', '"shape":[5,-4]', "cannot read .* as a safetensors file"),
        ('"shape":[5,4]', '"shape":[5,4.0]', "cannot read .* as a safetensors file"),
        ('"shape":[5,4]', '"shape":[true,20]', "cannot read .* as a safetensors file"),
        ('"shape":[5,4]', '"shape":[5,4' + ",1" * 40 + "]", "damaged"),
        ('"shape":[5,4]', '"shape":[9000000000,9000000000]', "cannot read .* as a safetensors file"),
        ('"data_offsets":[0,20]', '"data_offsets":[0,20,40]', "cannot read .* as a safetensors file"),
        ('"data_offsets":[0,20]', '"data_offsets":[4,24]', "cannot read .* as a safetensors file"),
        ('"data_offsets":[0,20]', '"data_offsets":[20,0]', "cannot read .* as a safetensors file"),
        ('"F32"', '"BF16"', "cannot read .* as a safetensors file"),
        ('"F32"', '"I32"', "int32"),
        ('"F32"', "[3]", "cannot read .* as a safetensors file"),
    ],
)
def test_an_edited_header(saved: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    path = edited(saved, tmp_path / "edited.safetensors", old, new)
    with pytest.raises(gpubp.ModelFileError, match=message) as raised:
        gpubp.load(path)
    assert path.name in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_an_edit_that_does_no_harm(saved: Path, tmp_path: Path) -> None:
    path = edited(saved, tmp_path / "edited.safetensors", "holdout", "größer 𝔘")
    assert gpubp.load(path).metadata == {**METADATA, "note": "größer 𝔘"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes as POSIX has them")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(gpubp.ModelFileError, match="it is no file"):
        gpubp.load(tmp_path / "pipe")


@pytest.mark.parametrize("value", [np.nan, np.inf, {1: "a", "1": "b"}, object(), "[" * 3], ids=repr)
def test_metadata_that_a_file_cannot_keep(value: Any, tmp_path: Path) -> None:
    net = gpubp.MLP([1, 1])
    net.metadata["this"] = value
    if value == "[[[":
        value = net.metadata["this"] = []
        for _ in range(100_000):
            value.append([])
            value = value[0]
    with pytest.raises(gpubp.DataError, match=r"net\.metadata cannot be kept in a model file"):
        net.save(tmp_path / "model.safetensors")
    assert not os.listdir(tmp_path)


def test_many_columns(tmp_path: Path) -> None:
    """Metadata much larger than the weights are no bomb."""
    columns, net = 20_000, gpubp.MLP([20_000, 1], output="identity", init=gpubp.Zeros(), device="cpu")
    names, numbers = [f"größe {column}" for column in range(columns)], RNG.normal(size=columns).tolist()
    net.metadata = {"preprocessing": {"features": names, "shift": numbers, "scale": numbers}}
    net.save(tmp_path / "model.safetensors")
    assert gpubp.load(tmp_path / "model.safetensors").metadata == net.metadata


def test_a_failure_to_write_leaves_the_old_file(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(saved.read_bytes())
    net = gpubp.load(path)
    net.weights[1][...] = 1

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(gpubp.ModelFileError, match=r"cannot write .*model\.safetensors.*No space left"):
                net.save(path)
        assert path.read_bytes() == saved.read_bytes()
        assert os.listdir(tmp_path) == ["model.safetensors"]
    net.save(path)
    assert np.all(gpubp.load(path).weights[1] == 1)


def test_places_that_cannot_be_written(saved: Path, tmp_path: Path) -> None:
    net = gpubp.load(saved)
    with pytest.raises(gpubp.ModelFileError, match=r"cannot write .*choose another place"):
        net.save(tmp_path / "absent" / "model.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(gpubp.ModelFileError, match="cannot write"):
        net.save(tmp_path / "folder")
    net.metadata = {"when": object()}
    with pytest.raises(gpubp.DataError, match=r"net\.metadata"):
        net.save(tmp_path / "model.safetensors")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_the_file_has_the_permissions_of_any_new_file(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    gpubp.load(saved).save(tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "usual").stat().st_mode
