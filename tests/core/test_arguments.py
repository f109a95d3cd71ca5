"""Keywords that PyTorch takes beside an op's own, and `out=`, each beside the plain call."""

from __future__ import annotations

import pickle
from typing import Any

import mpigrad.nn.functional as F
import pytest

import mpigrad as m

pytestmark = pytest.mark.mpi_skip

X = m.tensor([[4.0, 1.0, 2.0], [3.0, 0.0, 5.0]])
SQUARE = X[:, :2]
V = m.tensor([1.0, 2.0])


def same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and not hasattr(a, "numel"):
        return len(a) == len(b) and all(map(same, a, b))
    return a.dtype == b.dtype and m.equal(a, b) if isinstance(a, m.Tensor) else a == b


# what is called, with other keywords, and what it stands for
CALLS = [
    (lambda: m.sum(X, axis=1, keepdims=True), lambda: m.sum(X, 1, True)),
    (lambda: X.max(axis=0), lambda: X.max(0)),
    (lambda: m.cat([X, X], axis=1), lambda: m.cat([X, X], 1)),
    (lambda: m.add(x1=X, x2=X), lambda: X + X),
    (lambda: m.softmax(X, axis=1), lambda: m.softmax(X, 1)),
    (lambda: X.clone().cumsum_(axis=1), lambda: X.cumsum(1)),
    (lambda: m.linalg.vector_norm(X, axis=1), lambda: m.linalg.vector_norm(X, dim=1)),
    (lambda: m.zeros(size=(2, 3)), lambda: m.zeros(2, 3)),
    (lambda: X.new_ones(size=(2,)), lambda: X.new_ones(2)),
    (lambda: m.reshape(X, shape=(3, 2)), lambda: X.reshape(3, 2)),
    (lambda: X.view(size=(6,)), lambda: X.view(6)),
    (lambda: X.view(dtype=m.int32), lambda: X.view(m.int32)),
    (lambda: X.permute(dims=(1, 0)), lambda: X.permute(1, 0)),
    (lambda: V.expand(size=(3, 2)), lambda: V.expand(3, 2)),
    (lambda: X.repeat(repeats=(2, 1)), lambda: X.repeat(2, 1)),
    (lambda: m.flip(X, dims=(0, 1)), lambda: X.flip(0, 1)),
    (lambda: m.tile(X, dims=(2,)), lambda: X.tile(2)),
    (lambda: X.pow(exponent=2), lambda: X**2),
    (lambda: X.clone().pow_(exponent=2), lambda: X**2),
    (lambda: m.max(X, other=-X), lambda: m.maximum(X, -X)),
    (lambda: m.heaviside(X, values=X), lambda: m.heaviside(X, X)),
    (lambda: m.addmm(SQUARE, mat1=SQUARE, mat2=SQUARE), lambda: SQUARE + SQUARE @ SQUARE),
    (lambda: m.addmv(V, mat=SQUARE, vec=V), lambda: V + SQUARE @ V),
    (lambda: m.addr(SQUARE, vec1=V, vec2=V), lambda: SQUARE + m.outer(V, V)),
    (lambda: m.baddbmm(SQUARE, batch1=SQUARE[None], batch2=SQUARE[None]), lambda: (SQUARE + SQUARE @ SQUARE)[None]),
    (lambda: m.hsplit(X, sections=3), lambda: m.hsplit(X, 3)),
    (lambda: m.tensor_split(X, indices=[1]), lambda: m.tensor_split(X, [1])),
    (lambda: X.split(split_size=1), lambda: X.split(1)),
    (lambda: X.swapaxes(axis0=0, axis1=1), lambda: X.T),
    (lambda: m.det(input=SQUARE), lambda: m.det(SQUARE)),
    (lambda: m.result_type(tensor=X, other=2), lambda: m.float32),
    (lambda: m.arange(end=3), lambda: m.tensor([0, 1, 2])),
    (lambda: m.randint(high=1, size=(2,)), lambda: m.zeros(2, dtype=m.int64)),
    (lambda: m.randint(1, size=(2,)), lambda: m.zeros(2, dtype=m.int64)),
    (lambda: m.randint_like(X, high=1), lambda: m.zeros_like(X)),
    (lambda: F.one_hot(input=m.tensor([1])), lambda: m.tensor([[0, 1]])),
    (lambda: m.ones(2, pin_memory=False, layout=None, memory_format=m.contiguous_format), lambda: m.ones(2)),
    (lambda: X.T.contiguous(memory_format=m.contiguous_format), lambda: X.T),
    (lambda: X.clone(memory_format=m.preserve_format), lambda: X),
    (lambda: X.stride(dim=0), lambda: 3),
]


@pytest.mark.parametrize("case", range(len(CALLS)))
def test_other_keywords(case: int) -> None:
    called, meant = CALLS[case]
    assert same(called(), meant())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: m.sum(X, axes=1), "axes"),
        (lambda: m.sum(X, 1, axis=1), "dim"),
        (lambda: m.sum(X, dim=1, axis=1), "axis"),
        (lambda: m.add(X, X, pin_memory=True), "pin_memory"),
        (lambda: X.add_(X, beta=1), "beta"),
        (lambda: m.arange(), "end"),
        (lambda: m.randint(5), "size"),
    ],
)
def test_wrong_keywords(call: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: m.nn.Linear(3, 2)([1.0]), r"linear\(\): argument 'input' \(position 1\) must be Tensor, not list"),
        (lambda: m.nn.LayerNorm(3)(X.numpy()), "argument 'input' .* must be Tensor, not ndarray"),
        (lambda: F.cross_entropy(X, target=2), "argument 'target' .* must be Tensor, not int"),
        (lambda: m.sum(None), "argument 'input' .* must be Tensor, not NoneType"),
    ],
)
def test_what_is_no_tensor(call: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        call()


def test_attributes_that_are_missing_elsewhere() -> None:
    with pytest.raises(AttributeError, match="'Tensor' object has no attribute 'length'"):
        F.triplet_margin_with_distance_loss(X, X, X, distance_function=lambda a, b: (a - b).length())


def test_out() -> None:
    out = m.empty(2, 3)
    memory = out.data_ptr()
    assert m.add(X, X, out=out) is out and out.data_ptr() == memory
    assert m.equal(out, 2 * X) and out._version == 1
    assert m.mul(X, 2, out=None).requires_grad is False
    assert m.equal(m.matmul(X, X.T, out=m.empty(0)), X @ X.T)  # an empty tensor grows
    values, indices = m.empty(0), m.empty(0, dtype=m.int64)
    found = m.max(X, 1, out=(values, indices))
    assert found.values is values and found.indices is indices and indices.tolist() == [0, 2]
    whole = m.empty(3, dtype=m.int64)
    assert m.zeros(3, out=whole) is whole and whole.tolist() == [0, 0, 0]
    with pytest.warns(UserWarning, match=r"had shape \[2\], which does not match the required output shape \[2, 3\]"):
        m.add(X, X, out=m.empty(2))
    with pytest.raises(RuntimeError, match="result type Float can't be cast to the desired output type Long"):
        m.add(X, X, out=m.empty(2, 3, dtype=m.int64))
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        m.add(X, X.clone().requires_grad_(), out=out)
    with m.no_grad():
        m.add(X, X.clone().requires_grad_(), out=out)
    assert not out.requires_grad


@pytest.mark.parametrize("function", [m.sum, F.gelu, m.linalg.norm, m.special.expit])
def test_published_functions_are_pickled_by_name(function: Any) -> None:
    assert pickle.loads(pickle.dumps(function)) is function
