"""State dicts on disk: whole or not at all."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
