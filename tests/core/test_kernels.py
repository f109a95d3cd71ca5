"""Loops in machine code: against float64 at the edges of float32, and what decides whether they are used."""

from __future__ import annotations

import sys
from typing import Any

import mpigrad.nn.functional as F
import numpy as np
import pytest

import mpigrad as m
from mpigrad.core import backend
from mpigrad.core.autograd import wrap

pytestmark = pytest.mark.mpi_skip

ROWS, COUNT = 256, 96  # more elements than LARGE


@pytest.fixture(params=["numba", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute, one after the other."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed: pip install 'mpigrad[fast]'")
        assert backend.kernels(np.zeros(backend.LARGE, np.float32)) is not None
    else:
        monkeypatch.setattr(backend, "_kernels", [None])
    return str(request.param)


def both(function: Any, *arrays: np.ndarray) -> None:
    """Value and gradients in float32 beside those in float64, which no kernel computes."""
    found, wanted = [], []
    for dtype, results in ((m.float32, found), (m.float64, wanted)):
        tensors = [m.tensor(a).to(dtype).requires_grad_() for a in arrays]
        value = function(*tensors)
        slopes = m.tensor(np.random.default_rng(1).standard_normal(value.shape)).to(dtype)
        value.backward(slopes)
        results += [value.detach(), function(*(t.detach() for t in tensors)), *(t.grad for t in tensors)]
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == m.float32
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=2e-5, atol=2e-5)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "relu"])
def test_activations(way: str, name: str) -> None:
    x = numbers(ROWS, COUNT)
    x.reshape(-1)[: 2 * COUNT] = np.linspace(-200, 200, 2 * COUNT)
    x[4, :4] = 0, -0.0, 1e-30, -1e-38
    function = (lambda x: F.gelu(x, approximate="tanh")) if name == "gelu_tanh" else getattr(F, name)
    both(function, x)
    x[5, :3] = np.nan, np.inf, -np.inf
    found, wanted = (function(m.tensor(x).to(dtype)).numpy()[5, :3] for dtype in (m.float32, m.float64))
    assert np.array_equal(np.isnan(found), np.isnan(wanted)) and found[1] == np.inf


def test_layer_norm(way: str) -> None:
    x, weight, bias = numbers(ROWS, COUNT), numbers(COUNT) + 2, numbers(COUNT)
    x[0], x[1] = 3, x[1] + 10
    both(lambda x, w, b: F.layer_norm(x, (COUNT,), w, b), x, weight, bias)
    both(lambda x, w: F.rms_norm(x, (COUNT,), w), x[2:], weight)
    both(lambda x: F.layer_norm(x, (COUNT,)), x[2:])
    both(lambda x, w: F.layer_norm(x.T, (ROWS,), w), x, numbers(ROWS))  # in another order
    found = F.layer_norm(m.tensor(x).bfloat16(), (COUNT,))
    assert found.dtype == m.bfloat16


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((3, 8, 30, 28), (32, 8, 3, 3), {}),  # rows copied one by one, images one by one
        ((70, 8, 6, 7), (64, 4, 3, 3), {"groups": 2, "padding": 1}),  # many images together, and some left
        ((3, 8, 30, 28), (4, 8, 3, 3), {"padding": (1, 0)}),  # rows copied as one
        ((3, 8, 30, 28), (32, 8, 3, 2), {"stride": (2, 1), "padding": 1, "dilation": (1, 3)}),
        ((3, 8, 30, 28), (32, 8, 3, 3), {"stride": 2}),
        ((3, 8, 30, 28), (32, 8, 1, 1), {}),
        ((4, 8, 800), (40, 8, 5), {"padding": 2}),
        ((2, 4, 9, 17, 18), (32, 4, 2, 3, 2), {"padding": (1, 2, 0)}),
    ],
)
def test_convolutions(way: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any]) -> None:
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(x) - 3]
    both(lambda x, w, b: conv(x, w, b, **options), numbers(*x) / 8, numbers(*w) / 8, numbers(w[0]))
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(x) - 3]
    image = numbers(x[0], w[0], *x[2:])
    both(lambda x, w: transposed(x, w, **options), image / 8, numbers(*w) / 8)


def test_convolution_of_read_only_gradients(way: str) -> None:
    x, w = m.tensor(numbers(3, 8, 30, 28)), m.tensor(numbers(32, 8, 3, 3)).requires_grad_()
    slopes = numbers(3, 32, 28, 26)
    frozen = slopes.copy()
    frozen.flags.writeable = False
    wanted, found = (m.autograd.grad(F.conv2d(x, w), w, wrap(a))[0] for a in (slopes, frozen))
    assert m.equal(found, wanted)


def test_convolution_of_no_images(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LARGE", 0)
    both(F.conv2d, numbers(0, 8, 30, 28), numbers(32, 8, 3, 3))
    both(lambda x: F.max_pool2d(x, 2), numbers(0, 8, 30, 28))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 16, 41, 40), {"kernel_size": 2}),
        ((4, 16, 41, 40), {"kernel_size": 3, "stride": (1, 2), "padding": 1}),
        ((4, 16, 41, 40), {"kernel_size": 2, "dilation": 2, "stride": 1}),
        ((2, 4, 20, 21, 22), {"kernel_size": (2, 1, 3), "stride": 1, "padding": (1, 0, 1)}),
    ],
)
def test_max_pooling(way: str, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    x = np.round(numbers(*shape), 1)  # some windows have several largest elements
    both(lambda x: (F.max_pool2d, F.max_pool3d)[len(shape) - 4](x, **options), x)


def test_an_element_does_not_depend_on_its_place() -> None:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'mpigrad[fast]'")
    x = numbers(ROWS, COUNT)
    whole, later = F.gelu(m.tensor(x)), F.gelu(m.tensor(x)[1:])
    assert m.equal(whole[1:], later)
    flat = m.tensor(x).reshape(-1)
    assert m.equal(F.gelu(flat)[3:], F.gelu(flat[3:].clone()))
    assert m.equal(F.layer_norm(m.tensor(x), (COUNT,))[3:], F.layer_norm(m.tensor(x)[3:], (COUNT,)))


def test_which_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'mpigrad[fast]'")
    monkeypatch.setattr(backend, "LARGE", 2**14)  # tests of shards before this one may have set it to 0, for good
    large = np.zeros((256, 128), np.float32)
    frozen = large.copy()
    frozen.flags.writeable = False
    assert backend.kernels(large, large[0]) is not None
    for others in [(large[:2],), (large.T,), (large.astype(np.float64),), (frozen,), (large, large.T)]:
        assert backend.kernels(*others) is None


@pytest.mark.parametrize(("error", "warned"), [(ModuleNotFoundError("numba"), False), (SystemError("broken"), True)])
def test_without_a_working_numba(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, error: Exception, warned: bool
) -> None:
    class Refused:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "numba":
                raise error

    monkeypatch.setattr(backend, "_kernels", [])
    monkeypatch.setattr(sys, "meta_path", [Refused(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "numba" or name.endswith("core.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["mpigrad.core"], "kernels", raising=False)
    x = m.tensor(numbers(ROWS, COUNT))
    assert F.gelu(x).shape == x.shape and backend._kernels == [None]
    assert [str(w.message) for w in recwarn] == ["numba does not work, so NumPy computes all: broken"] * warned


def test_without_a_place_for_the_cache() -> None:
    pytest.importorskip("numba", reason="numba is not installed: pip install 'mpigrad[fast]'")
    from mpigrad.core.kernels import compiled

    made: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x\n", made)  # has no file, so numba has no place to cache it
    assert compiled()(made["double"])(3) == 6
