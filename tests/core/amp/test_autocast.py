"""Autocast against torch's: which ops compute low, values and gradients, nesting, threads, and that off it is gone."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad.core.amp import autocast_mode

RNG = np.random.default_rng(0)
SQUARE, VECTOR, BATCH, IMAGES, KERNELS = (
    RNG.standard_normal(s).astype("f") for s in ((4, 4), (4,), (2, 4, 4), (2, 3, 5, 5), (3, 3, 2, 2))
)

# m, then a float32 matrix, vector, batch of matrices, images and kernels, and the matrix in bfloat16
CASES: dict[str, Callable[..., Any]] = {
    "matmul": lambda m, x, v, b, i, k, h: x @ x,
    "method": lambda m, x, v, b, i, k, h: x.matmul(v),
    "mm": lambda m, x, v, b, i, k, h: m.mm(x, x),
    "mv": lambda m, x, v, b, i, k, h: m.mv(x, v),
    "dot": lambda m, x, v, b, i, k, h: m.dot(v, v),
    "bmm": lambda m, x, v, b, i, k, h: m.bmm(b, b),
    "addmm": lambda m, x, v, b, i, k, h: m.addmm(x, x, x),
    "baddbmm": lambda m, x, v, b, i, k, h: m.baddbmm(b, b, b),
    "einsum": lambda m, x, v, b, i, k, h: m.einsum("ij,jk->ik", x, x),
    "tensordot": lambda m, x, v, b, i, k, h: m.tensordot(x, x, 1),
    "linear": lambda m, x, v, b, i, k, h: m.nn.functional.linear(x, x, v),
    "conv2d": lambda m, x, v, b, i, k, h: m.nn.functional.conv2d(i, k),
    "conv_transpose2d": lambda m, x, v, b, i, k, h: m.nn.functional.conv_transpose2d(i, k),
    "attention": lambda m, x, v, b, i, k, h: m.nn.functional.scaled_dot_product_attention(b, b, b),
    "double": lambda m, x, v, b, i, k, h: x.double() @ x.double(),
    "mixed": lambda m, x, v, b, i, k, h: h @ x,
    "elementwise": lambda m, x, v, b, i, k, h: (x * x + 1).tanh().exp(),
    "softmax": lambda m, x, v, b, i, k, h: m.softmax(h, 1),
    "sum": lambda m, x, v, b, i, k, h: h.sum(),
    "prod": lambda m, x, v, b, i, k, h: h.prod(),
    "layer_norm": lambda m, x, v, b, i, k, h: m.nn.functional.layer_norm(x, (4,), v, v),
    "norm of halves": lambda m, x, v, b, i, k, h: m.nn.functional.layer_norm(h, (4,), v, v),
    "batch_norm": lambda m, x, v, b, i, k, h: m.nn.functional.batch_norm(h, None, None, v, v, training=True),
    "mse_loss": lambda m, x, v, b, i, k, h: m.nn.functional.mse_loss(h, x),
    "cross_entropy": lambda m, x, v, b, i, k, h: m.nn.functional.cross_entropy(h, m.tensor([0, 1, 2, 3])),
    "network": lambda m, x, v, b, i, k, h: m.nn.functional.linear(m.nn.functional.linear(x, x).relu(), x, v),
}


def outcome(m: Any, name: str, dtype: str) -> tuple[Any, ...]:
    tensors = [m.from_numpy(a.copy()).requires_grad_() for a in (SQUARE, VECTOR, BATCH, IMAGES, KERNELS)]
    with m.autocast("cpu", getattr(m, dtype)):
        result = CASES[name](m, *tensors, tensors[0].to(m.bfloat16))
    result.float().sum().backward()
    gradients = [np.zeros(0) if t.grad is None else t.grad.numpy() for t in tensors]
    return str(result.dtype)[-8:], [str(g.dtype) for g in gradients], [result.detach().double().numpy(), *gradients]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_as_in_torch(name: str, dtype: str, torch: Any) -> None:
    (got, got_types, got_values), (want, want_types, want_values) = (outcome(m, name, dtype) for m in (mpigrad, torch))
    assert got == want
    assert got_types == want_types
    for ours, theirs in zip(got_values, want_values, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=0.1 if dtype == "bfloat16" else 0.02)


def test_on_a_gpu_other_ops_are_listed(monkeypatch: Any) -> None:
    for lists in (autocast_mode.LOW, autocast_mode.FULL):
        monkeypatch.setitem(lists, "cpu", lists["cuda"])
    x = mpigrad.from_numpy(SQUARE).half()
    functional = mpigrad.nn.functional
    with mpigrad.autocast("cpu", mpigrad.float16):
        for result in (x.softmax(1), functional.log_softmax(x, 0), x.exp(), x.sum(), functional.layer_norm(x, (4,))):
            assert result.dtype is mpigrad.float32
        assert mpigrad.from_numpy(SQUARE).mv(x[0]).dtype is mpigrad.float16
        assert (x + 1).relu().dtype is mpigrad.float16


def test_training_as_in_torch(torch: Any) -> None:
    ends = []
    for m in (mpigrad, torch):
        m.manual_seed(0)
        model = m.nn.Sequential(m.nn.Linear(4, 16), m.nn.Tanh(), m.nn.Linear(16, 4))
        o, scaler, losses = m.optim.SGD(model.parameters(), 0.1, 0.9), m.amp.GradScaler("cpu", init_scale=256.0), []
        for _ in range(30):
            with m.autocast("cpu", m.float16):
                loss = m.nn.functional.cross_entropy(model(m.from_numpy(SQUARE)), m.tensor([0, 1, 2, 3]))
            o.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(o)
            scaler.update()
            losses.append(loss.item())
        assert model[0].weight.grad.dtype is m.float32
        ends.append(losses)
    assert ends[0][-1] < 0.3
    np.testing.assert_allclose(*ends, rtol=0.02, atol=0.005)


def test_blocks_nest_and_end() -> None:
    x = mpigrad.from_numpy(SQUARE)
    bodies = [(f, f.__code__) for _, f in autocast_mode._find_ops()]
    assert len(bodies) > 30

    @mpigrad.autocast("cpu", mpigrad.float16)
    def decorated() -> Any:
        return x @ x

    block = mpigrad.amp.autocast("cpu")
    seen = [(x @ x).dtype, decorated().dtype]
    with block:
        assert mpigrad.is_autocast_enabled("cpu")
        assert not mpigrad.is_autocast_enabled("cuda")
        seen.append((x @ x).dtype)
        with block, mpigrad.autocast("cpu", enabled=False):
            assert not mpigrad.is_autocast_enabled("cpu")
            seen += [(x @ x).dtype, decorated().dtype, (x @ x).dtype]
        seen.append((x @ x).dtype)
        with pytest.raises(RuntimeError, match="cannot be multiplied"), mpigrad.autocast("cpu", mpigrad.float16):
            x @ x[:2]
        assert mpigrad.get_autocast_dtype("cpu") is mpigrad.bfloat16
    seen.append((x @ x).dtype)
    assert [str(d)[8:] for d in seen] == [
        "float32", "float16", "bfloat16", "float32", "float16", "float32", "bfloat16", "float32"
    ]  # fmt: skip
    assert all(f.__code__ is body for f, body in bodies)


def test_other_threads_are_not_concerned() -> None:
    x, seen = mpigrad.from_numpy(SQUARE), []
    with mpigrad.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append((x @ x).dtype))
        thread.start()
        thread.join()
        seen.append((x @ x).dtype)
    assert seen == [mpigrad.float32, mpigrad.bfloat16]


def test_a_weight_is_cast_once_until_it_changes() -> None:
    weight = mpigrad.nn.Parameter(mpigrad.from_numpy(SQUARE.copy()))
    optimizer = mpigrad.optim.SGD([weight], lr=1.0)
    for cache in (True, False):
        with mpigrad.autocast("cpu", cache_enabled=cache):
            products = [(weight @ weight).sum() for _ in range(2)]
            parents = {id(p.grad_fn.next_functions[0][0].next_functions[0][0]) for p in products}
            assert len(parents) == (1 if cache else 2)
            for product in products:
                product.backward()
            optimizer.step()
            after = weight @ weight
            want = weight.detach().to(mpigrad.bfloat16) @ weight.detach().to(mpigrad.bfloat16)
            assert after.tolist() == want.tolist()
            with mpigrad.no_grad():
                assert not (weight @ weight).requires_grad
            optimizer.zero_grad()


def test_errors(same: Callable[..., None], same_class: Callable[..., None]) -> None:
    same(lambda m: m.autocast(3))
    same_class(lambda m: m.autocast("abacus"))
    same_class(lambda m: m.autocast("cpu")(3))


def test_what_cannot_be_cast_to_is_off(monkeypatch: Any) -> None:
    monkeypatch.setattr(autocast_mode, "cuda_device_count", lambda: 0)
    x = mpigrad.from_numpy(SQUARE)
    for options, text in ((("cuda",), "CUDA is not available"), (("cpu", mpigrad.float64), "is not supported")):
        with pytest.warns(UserWarning, match=text):
            block = mpigrad.autocast(*options)
        with block:
            assert (x @ x).dtype is mpigrad.float32
