"""Devices and what they say about arrays. Without a GPU: its absence is explained."""

import threading

import numpy as np
import pytest

import mpigrad
from mpigrad.core import backend
from mpigrad.core.backend import CPU, device


def test_devices() -> None:
    assert device("cuda:1") == device("cuda", 1) == device(1) == device(device("cuda:1"))
    assert device("cuda") != device("cuda:0")
    assert (repr(device("cuda", 1)), str(device("cuda", 1)), repr(CPU)) == (
        "device(type='cuda', index=1)",
        "cuda:1",
        "device(type='cpu')",
    )
    assert len({device("cuda:1"), device("cuda", 1), CPU}) == 2


@pytest.mark.parametrize(("name", "text"), [("tpu", "Expected one of cpu, cuda"), ("cuda:x", "Invalid device string")])
def test_wrong_devices(name: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        device(name)


def test_arrays_on_the_host() -> None:
    array = np.zeros(3)
    assert backend.array_module(array) is backend.module_of(CPU) is np
    assert backend.device_of(array) == CPU
    assert backend.is_array(array) and not backend.is_array([1]) and not backend.is_array(np.float32(1))
    assert backend.to_host(array) is backend.to_device(array, CPU) is array
    backend.synchronize(array)


def test_add_at_adds_up_repeated_indices() -> None:
    array = np.zeros(3)
    backend.add_at(array, np.array([0, 2, 0]), np.array([1.0, 2.0, 3.0]))
    assert array.tolist() == [4.0, 0.0, 2.0]


def test_missing_gpu() -> None:
    if backend.cuda_device_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="a CUDA device was asked for, but"):
        backend.to_device(np.zeros(1), device("cuda"))


def test_quiet_floating_point_per_thread() -> None:
    """NumPy's warnings would be errors here."""
    found = []

    def compute() -> None:
        backend.quiet_floating_point()
        found.append(np.float32([1]) / np.float32([0]))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found[0].tolist() == [np.inf]


@pytest.mark.gpu
@pytest.mark.skipif(backend.cuda_device_count() == 0, reason="needs a CUDA device")
def test_there_and_back() -> None:
    x = mpigrad.arange(6.0).reshape(2, 3).requires_grad_()
    y = x.to("cuda:0")
    assert y.device == mpigrad.device("cuda", 0)
    (y * y).sum().backward()
    assert isinstance(x.grad.array, np.ndarray)
    np.testing.assert_allclose(x.grad.array, 2 * x.array)
