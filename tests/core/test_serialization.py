"""State dicts on disk: whole or not at all."""

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as serialize

import mpigrad
from mpigrad import nn
from mpigrad.core import serialization


@pytest.fixture
def state() -> dict[str, mpigrad.Tensor]:
    return {
        "weight": mpigrad.arange(6).reshape(2, 3).float().T,
        **{
            str(d)[8:]: mpigrad.ones(2, dtype=d)
            for d in (mpigrad.float64, mpigrad.float16, mpigrad.int64, mpigrad.uint8)
        },
        "flags": mpigrad.tensor([True, False]),
        "scalar": mpigrad.tensor(1.5),
        "empty": mpigrad.zeros(0, 3),
    }


def test_round_trip(state: dict[str, Any], tmp_path: Path) -> None:
    mpigrad.save_file(state, tmp_path / "model.safetensors")
    loaded = mpigrad.load_file(str(tmp_path / "model.safetensors"))
    assert sorted(loaded) == sorted(state)
    for name, tensor in loaded.items():
        assert (tensor.dtype, tensor.shape, tensor.tolist()) == (
            state[name].dtype,
            state[name].shape,
            state[name].tolist(),
        )
        tensor.fill_(0)  # loaded tensors can be written to
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_module_round_trip(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    mpigrad.save_file(model.state_dict(), tmp_path / "m")
    other.load_state_dict(mpigrad.load_file(tmp_path / "m"))
    assert other.weight.tolist() == model.weight.tolist()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"\xff" * 8 + b[8:]])
def test_damaged_file(damage: Any, state: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model"
    mpigrad.save_file(state, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}: expected a whole safetensors file, found a damaged one"):
        mpigrad.load_file(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mpigrad.load_file(tmp_path / "nothing")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(
    error: BaseException, function: str, state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    mpigrad.save_file(state, path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if function == "fsync" else (Path, "replace")), fail)
    with pytest.raises(type(error)):
        mpigrad.save_file({"weight": mpigrad.zeros(1)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        serialization.write_atomically(tmp_path / "no" / "model", b"content")


def test_read_by_numpy(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    mpigrad.save_file({"w": mpigrad.ones(2)}, tmp_path / "m")
    np.testing.assert_array_equal(load_file(tmp_path / "m")["w"], np.ones(2, np.float32))


# --- save and load ----------------------------------------------------------------------------------------------------

SAVED: list[Any] = [
    {"a": {"b": [mpigrad.ones(2), (1, 2.5, None, True)], 3: "text \u20ac"}, "c": OrderedDict(x=mpigrad.zeros(0, 2))},
    [float("inf"), -float("inf"), 2**70, -0.0, 0.1, b"\x00\xff", 1 - 2j, (), [], {}, mpigrad.Size([2, 3])],
    {(1, "a"): 1, None: 2, 1.5: 3, True: 4},
    [mpigrad.float16, mpigrad.device("cpu"), "", np.float32(0.5), np.int64(3)],
    mpigrad.tensor(2.5),
    mpigrad.ones(2, requires_grad=True),
    nn.Parameter(mpigrad.arange(3.0)),
    nn.Parameter(mpigrad.arange(3.0), requires_grad=False),
    [mpigrad.arange(6).reshape(2, 3).T, mpigrad.arange(6)[::2], mpigrad.ones(1).expand(4)],
    {"a.b": mpigrad.ones(1), "a": {"b": mpigrad.zeros(1)}, "__metadata__": mpigrad.ones(2)},
    nn.Sequential(nn.Linear(2, 3)).state_dict(),
    [[[[[]]]]],
    "only text",
]


def plain(value: Any) -> Any:
    if isinstance(value, mpigrad.Tensor):
        return type(value), value.dtype, value.shape, value.tolist(), value.requires_grad
    if isinstance(value, dict):
        return type(value), [(k, plain(v)) for k, v in value.items()], plain(getattr(value, "_metadata", None))
    if type(value) in (list, tuple):
        return type(value), [plain(v) for v in value]
    return repr(value.item() if isinstance(value, np.generic) else value)


@pytest.mark.parametrize("value", SAVED, ids=range(len(SAVED)))
def test_containers_round_trip(value: Any, tmp_path: Path) -> None:
    mpigrad.save(value, tmp_path / "x.pt")
    mpigrad.save(value, str(tmp_path / "y.pt"))
    with (tmp_path / "z.pt").open("wb") as file:
        mpigrad.save(value, file)
    found = [mpigrad.load(tmp_path / "x.pt"), mpigrad.load(str(tmp_path / "y.pt"))]
    with (tmp_path / "z.pt").open("rb") as file:
        found.append(mpigrad.load(file))
    memory = io.BytesIO()
    mpigrad.save(value, memory)
    memory.seek(0)
    found.append(mpigrad.load(memory))
    assert [plain(v) for v in found] == [plain(value)] * 4


def test_a_state_dict_is_a_file_of_names(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    mpigrad.save(model.state_dict(), tmp_path / "m")
    assert sorted(mpigrad.load_file(tmp_path / "m")) == ["bias", "weight"]
    mpigrad.save_file(model.state_dict(), tmp_path / "n")
    assert sorted(mpigrad.load(tmp_path / "n")) == ["bias", "weight"]
    assert list(mpigrad.load(tmp_path / "m")) == ["weight", "bias"]  # in the order saved


def test_the_same_elements_stay_the_same(tmp_path: Path) -> None:
    shared = mpigrad.ones(3)
    mpigrad.save({"a": shared, "b": [shared.view(3)], "part": shared[:2], "none": mpigrad.zeros(0)}, tmp_path / "m")
    found = mpigrad.load(tmp_path / "m")
    found["a"][0] = 7
    assert found["b"][0].tolist() == [7, 1, 1] and found["part"].tolist() == [1, 1]


def test_optimizers_go_on_where_they_were(tmp_path: Path) -> None:
    def trained(steps: int, model: Any, optimizer: Any) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (model(mpigrad.ones(1, 3)) ** 2).sum().backward()
            optimizer.step()

    def fresh() -> Any:
        mpigrad.manual_seed(1)
        model = nn.Linear(3, 2)
        return model, mpigrad.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    whole = fresh()
    trained(4, *whole)
    first, second = fresh(), fresh()
    trained(2, *first)
    mpigrad.save([part.state_dict() for part in first], tmp_path / "c")
    for part, state in zip(second, mpigrad.load(tmp_path / "c"), strict=True):
        part.load_state_dict(state)
    trained(2, *second)
    assert second[0].weight.tolist() == whole[0].weight.tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [object()]}, r"found builtins.object at \[a\]\[0\]"),
        (nn.Linear(1, 1), "found mpigrad.core.nn.linear.Linear"),
        ({1: {2: {3}}}, r"found builtins.set at \[1\]\[2\]"),
        (np.ones(2), "found numpy.ndarray"),
        (lambda: None, "found builtins.function"),
    ],
)
def test_what_is_not_saved(value: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=text):
        mpigrad.save(value, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_container_in_itself(tmp_path: Path) -> None:
    value: list[Any] = []
    value.append([value])
    with pytest.raises(ValueError, match="a container that contains itself"):
        mpigrad.save(value, tmp_path / "x")
    mpigrad.save([same := [1], same], tmp_path / "x")  # twice is fine


def file_with(structure: str) -> io.BytesIO:
    return io.BytesIO(serialize({"w": np.ones(2, np.float32)}, {"mpigrad": structure}))


@pytest.mark.parametrize(
    "structure",
    [
        "",
        "{",
        "{}",
        '{"tensor": "v"}',
        '{"tensor": ["w"]}',
        '{"odd": 1}',
        '{"dict": 3}',
        '{"dict": [[[], 1]]}',
        '{"dict": [[1]]}',
        '{"float": "x"}',
        '{"bytes": "?"}',
        '{"dtype": "float31"}',
        '{"complex": ["a"]}',
        '{"Size": 3}',
        '{"tuple": null}',
        "[" * 100000,
        "9" * 10000,
        '{"device": "nowhere"}',
        '{"device": 3.5}',
    ],
    ids=range(19),
)
def test_damaged_containers(structure: str) -> None:
    with pytest.raises(ValueError, match="the file: expected containers as `save` writes them, found damaged ones"):
        mpigrad.load(file_with(structure))


def test_integers_that_require_gradients() -> None:
    content = serialize({"w": np.ones(2, np.int64)}, {"mpigrad": '{"tensor": "w", "requires_grad": true}'})
    with pytest.raises(ValueError, match="damaged ones"):
        mpigrad.load(io.BytesIO(content))


def test_dtypes_that_the_library_has_not() -> None:
    with pytest.raises(ValueError, match="expected dtypes that mpigrad has, found C64 in 'w'"):
        mpigrad.load(io.BytesIO(serialize({"w": np.ones(2, np.complex64)})))


def test_a_device_that_is_not_here() -> None:
    if mpigrad.core.backend.cuda_device_count():
        pytest.skip("it is here")
    structure = '{"tensor": "w", "device": "cuda:0"}'
    with pytest.raises(RuntimeError, match=r"the file: tensors that were saved on 'cuda:0' cannot be placed"):
        mpigrad.load(file_with(structure))
    assert mpigrad.load(file_with(structure), "cpu").tolist() == [1, 1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bytes_are_errors_or_values(data: st.DataObject) -> None:
    memory = io.BytesIO()
    mpigrad.save({"a": [mpigrad.ones(3), (1, "x")], "b": OrderedDict(c=2.5)}, memory)
    content = bytearray(memory.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        content = content or bytearray(b"x")
    try:
        mpigrad.load(io.BytesIO(bytes(content)))
    except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
        assert str(error).startswith("the file: ")
