"""Functions that make tensors, against torch and on their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]


def drawn(draw: Expression) -> Expression:
    """What draw gives right after seeding."""

    def call(m: Any) -> Any:
        m.manual_seed(3)
        return draw(m)

    return call


SAME: list[Expression] = [
    lambda m: m.tensor(3),
    lambda m: m.tensor(3.0),
    lambda m: m.tensor(True),
    lambda m: m.tensor([[1, 2], [3, 4]]),
    lambda m: m.tensor([1, 2.5, True]),
    lambda m: m.tensor([True, 2]),
    lambda m: m.tensor((1, 2)),
    lambda m: m.tensor(range(3)),
    lambda m: m.tensor([]),
    lambda m: m.tensor([[], []]),
    lambda m: m.tensor([1.7, -1.7], dtype=m.int64),
    lambda m: m.tensor([0, 1, 2], dtype=m.bool),
    lambda m: m.tensor([1, 2], dtype=m.float16),
    lambda m: m.tensor(np.arange(3)),
    lambda m: m.tensor(np.float64(1.5)),
    lambda m: m.tensor([np.float64(1.5), 2]),
    lambda m: m.tensor([np.float32(1.5), 2]),
    lambda m: m.tensor([np.int32(1), True]),
    lambda m: m.tensor([m.tensor(1), m.tensor(2.5, dtype=m.float64)]),
    lambda m: m.tensor([1.0], requires_grad=True).requires_grad,
    lambda m: m.tensor([1.0]).requires_grad,
    lambda m: m.as_tensor([1, 2]),
    lambda m: m.as_tensor(np.float32([1, 2])),
    lambda m: m.as_tensor(np.float32([1, 2]), dtype=m.float64),
    lambda m: (t := m.zeros(2)) is m.as_tensor(t),
    lambda m: m.from_numpy(np.arange(3, dtype=np.int16)),
    lambda m: [m.zeros(2, 3), m.zeros((2, 3)), m.zeros([2, 3]), m.zeros(m.Size([2, 3])), m.zeros(()), m.zeros(2, 0)],
    lambda m: [m.ones(2), m.ones(2, dtype=m.int64), m.ones(1, requires_grad=True).requires_grad],
    lambda m: [m.empty(2, 3).shape, m.empty((0,)).dtype, m.empty(2, dtype=m.uint8).dtype],
    lambda m: [m.full((2,), 3), m.full((2,), 3.0), m.full((), True), m.full([2], 1.5, dtype=m.int64)],
    lambda m: [f(m.ones(2, 3, dtype=m.int64)) for f in (m.zeros_like, m.ones_like)],
    lambda m: [m.empty_like(m.ones(2, 3)).shape, m.full_like(m.ones(2), 5), m.zeros_like(m.ones(2), dtype=m.bool)],
    lambda m: [m.arange(5), m.arange(2, 5), m.arange(5, 2, -1), m.arange(0, 1, 0.1), m.arange(3.0), m.arange(4, 4)],
    lambda m: [m.arange(3, dtype=m.float32), m.arange(0, 3, 2), m.arange(0.5, 3), m.arange(1, 10, 2.5)],
    lambda m: [m.linspace(0, 1, 5), m.linspace(3, -3, 7), m.linspace(0, 1, 1), m.linspace(0, 1, 0)],
    lambda m: [m.eye(3), m.eye(2, 3), m.eye(3, 1, dtype=m.int64), m.eye(0)],
    lambda m: [m.cat([m.arange(2), m.arange(3)]), m.stack([m.arange(2), m.arange(2)])],
    drawn(lambda m: [m.rand(2, 3), m.rand((2,), dtype=m.float64), m.rand(())]),
    drawn(lambda m: [m.randint(5, (4,)), m.randint(-3, 3, (2, 2)), m.randint(0, 9, (3,), dtype=m.int32)]),
    drawn(lambda m: [m.randperm(7), m.randperm(3, dtype=m.int32), m.randperm(0)]),
    drawn(lambda m: [m.rand_like(m.zeros(2, 3)), m.rand(2, generator=m.Generator().manual_seed(5))]),
    drawn(lambda m: [m.zeros(4).uniform_(-1, 1), m.zeros(5).bernoulli_(0.3), m.zeros(5).bernoulli_()]),
    # errors
    lambda m: m.arange(2, 5, -1),
    lambda m: m.arange(0, 1, 0),
    lambda m: m.linspace(0, 1, -1),
    lambda m: m.tensor(300, dtype=m.uint8),
    lambda m: m.tensor([float("nan")], dtype=m.int64),
]  # fmt: skip
SAME += [
    drawn(lambda m: [m.randint_like(m.zeros(2, 3), 5), m.randint_like(m.zeros(3, dtype=m.int8), -3, 4)]),
    drawn(lambda m: [m.rand(20, dtype=m.bfloat16), m.rand_like(m.zeros(3), dtype=m.bfloat16)]),
    drawn(
        lambda m: [
            m.bernoulli(m.full((9,), 0.3)),
            m.bernoulli(m.full((9,), 0.3, dtype=m.float64)),
            m.ones(3).bernoulli(0.2),
        ]
    ),
    drawn(lambda m: [m.zeros(9, dtype=m.int64).bernoulli_(m.full((9,), 0.6, dtype=m.bfloat16))]),
    drawn(
        lambda m: [m.multinomial(m.tensor([0.1, 0.2, 0.3, 0.4]), *a) for a in ((3,), (9, True), (1, True), (4, False))]
    ),
    drawn(lambda m: [m.tensor([[1.0, 2], [3, 4]]).multinomial(n, r) for n, r in ((1, False), (2, False), (5, True))]),
    drawn(lambda m: m.multinomial(m.tensor([0.1, 0.2]), 3)),
    drawn(lambda m: m.multinomial(m.tensor([0.0, 0.0]), 1)),
    drawn(lambda m: m.multinomial(m.tensor([1.0, -1.0]), 1)),
    drawn(lambda m: m.multinomial(m.ones(2), 0)),
    drawn(
        lambda m: [
            m.zeros(7, dtype=d).random_() for d in (m.float32, m.float64, m.int64, m.int32, m.uint8, m.bool, m.half)
        ]
    ),
    drawn(lambda m: [m.zeros(7, dtype=d).random_(9) for d in (m.float32, m.int64)] + [m.zeros(7).random_(-3, 3)]),
    drawn(lambda m: [m.zeros(5, dtype=d).geometric_(0.3) for d in (m.float32, m.int64, m.bfloat16)]),
    drawn(lambda m: [m.zeros(0).exponential_(), m.rand(1)]),
    lambda m: m.zeros(2).exponential_(-1),
    lambda m: m.zeros(2).geometric_(1.5),
    lambda m: [m.manual_seed(3) and m.rand(2), (s := m.get_rng_state())[:40], m.rand(2), m.set_rng_state(s), m.rand(2)],
    lambda m: [m.Generator().manual_seed(5).get_state()[5000:], m.random.get_rng_state().shape],
    lambda m: [
        m.logspace(0, 2, 3),
        m.logspace(-1, 1, 2, base=2),
        m.logspace(0, 1, 0),
        m.linspace(0, 1, 3, dtype=m.bfloat16),
    ],
    lambda m: [m.scalar_tensor(3), m.scalar_tensor(2.5, dtype=m.int64), m.scalar_tensor(True).dtype],
    lambda m: [f(3, 4, k) for f in (m.tril_indices, m.triu_indices) for k in (-1, 0, 2)] + [m.tril_indices(0, 2)],
    lambda m: [m.asarray([1, 2]), m.asarray(np.ones(2)), (t := m.ones(2)).data_ptr() == m.asarray(t).data_ptr()],
    lambda m: [(t := m.ones(2)).data_ptr() == m.asarray(t, copy=True).data_ptr(), m.asarray(3.5, dtype=m.float64)],
    lambda m: [m.zeros_like(m.ones(2), memory_format=m.preserve_format), m.full((2,), m.tensor(3)), m.preserve_format],
    lambda m: m.Generator().device,
    lambda m: [m.is_tensor(m.ones(1)), m.is_tensor([1]), m.numel(m.ones(2, 3)), m.is_floating_point(m.tensor(1))],
    lambda m: [m.is_complex(m.ones(1)), m.ones(1).is_signed(), m.ones(1, dtype=m.uint8).is_signed()],
    lambda m: [
        (x := m.ones(2, dtype=m.float64)).new_tensor([1, 2]),
        x.new_zeros(2, 3),
        x.new_ones((2,)),
        x.new_full((2,), 3),
    ],
    lambda m: [
        m.ones(1).new_empty(2, 3).shape,
        m.ones(1).new_zeros(2, dtype=m.int8),
        m.ones(1).new_ones(1, requires_grad=True),
    ],
    lambda m: [
        m.Tensor([1, 2]),
        m.Tensor(2, 3).shape,
        m.Tensor(m.Size([2])).shape,
        m.Tensor(),
        m.FloatTensor([[1, 2]]),
    ],
    lambda m: [
        m.LongTensor([1.5, 2]),
        m.DoubleTensor(3).shape,
        m.HalfTensor([1]),
        m.BoolTensor([0, 2]),
        m.ByteTensor([1]),
    ],
    lambda m: [isinstance(m.ones(1), m.FloatTensor), isinstance(m.ones(1), m.LongTensor), m.BFloat16Tensor([1])],
    lambda m: m.Tensor(2.5),
    lambda m: [m.ones(1, dtype=d).type() for d in (m.float32, m.bfloat16, m.int64, m.bool, m.uint8)],
    lambda m: [m.ones(1).type(m.float64), m.ones(1).type(m.LongTensor), m.ones(1).type("torch.HalfTensor")],
    lambda m: m.ones(1).type("x"),
    lambda m: [m.ones(1).type_as(m.ones(1, dtype=m.int8)), m.ones(1).byte(), m.ones(1).char(), m.ones(1).bfloat16()],
    lambda m: [m.ones(1).to(*a) for a in ((m.int8,), ("cpu", m.int64), (m.int8, True, True), (None,), (), (float,))],
    lambda m: [(x := m.ones(1)).to(m.float32) is x, x.to(m.float32, copy=True) is x, x.to(m.zeros(2).long())],
    lambda m: m.ones(1).to("cpu", dtype=m.half, non_blocking=True),
    lambda m: [
        repr(m.tensor(v, dtype=m.bfloat16)) for v in ([1.1, 2], [1.0, 2], [1e-3, 1e5], 0.5, [float("nan"), 1], [])
    ],
    lambda m: m.tensor([0.1, 1, 1e30, -0.0, float("inf")], dtype=m.bfloat16).tolist(),
    lambda m: [
        m.arange(5, dtype=m.bfloat16),
        m.eye(2, dtype=m.bfloat16),
        m.full((2,), 1.1, dtype=m.bfloat16),
        m.ones(2).bfloat16().long(),
    ],
]
SAME += [
    lambda m: m.tensor("a"),
    lambda m: m.tensor([None]),
    lambda m: m.tensor([[1, 2], [3]]),
    lambda m: m.tensor([[[1, 2]], [[3]]]),
    lambda m: [
        m.full((2,), -9, dtype=m.uint8),
        m.full_like(m.ones(1, dtype=m.uint8), -255),
        m.tensor([-9], dtype=m.uint8),
    ],
    lambda m: [m.ones(2, dtype=m.uint8).fill_(-1), m.ones(2, dtype=m.uint8).masked_fill(m.tensor([True, False]), -1)],
    lambda m: [m.arange(-0.9, 2.1, 2.0, dtype=m.int32), m.arange(2.1, -2.9, -1.0, dtype=m.int16)],
    lambda m: m.arange(0, 5, 0),
    lambda m: m.arange(0, 5, 0.5, dtype=m.int64),
]
SAME_CLASS: list[Expression] = [
    lambda m: m.full((2,), 256, dtype=m.uint8),
    lambda m: m.ones(2, dtype=m.uint8).fill_(256),
    lambda m: m.tensor([1], requires_grad=True),
    lambda m: m.bernoulli(m.full((3,), 1.5)),
    lambda m: m.normal(1.0, -m.ones(2)),
    lambda m: m.LongTensor(m.ones(2)),
    lambda m: m.zeros(2, dtype=m.int64, requires_grad=True),
    lambda m: m.zeros(2.5),
    lambda m: m.zeros(-1),
    lambda m: m.eye(-1),
    lambda m: m.from_numpy([1]),
    lambda m: m.set_default_dtype(m.int64),
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


def test_normal_draws(torch: Any) -> None:
    for draw in (
        lambda m: m.randn(2, 3),
        lambda m: m.randn_like(m.zeros(40)),
        lambda m: m.zeros(9).normal_(2, 3),
        lambda m: m.randn(20, dtype=m.bfloat16).double(),
        lambda m: m.normal(m.arange(4.0), m.ones(4)),
        lambda m: m.normal(1.0, m.ones(2, 20)),
        lambda m: m.normal(m.ones(20), 0.5),
        lambda m: m.normal(1.0, 2.0, (2, 3)),
        lambda m: m.zeros(20).exponential_(2),
        lambda m: m.zeros(20).cauchy_(1, 2),
        lambda m: m.zeros(20, dtype=m.float64).log_normal_(0.5, 0.3),
    ):
        got, want = drawn(draw)(mpigrad), drawn(draw)(torch)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("expression", "error", "text"),
    [
        (lambda m: m.tensor([1j]), RuntimeError, "Could not infer dtype of complex"),
        (lambda m: m.tensor([2**63]), RuntimeError, "value cannot be converted to type int64 without overflow"),
        (lambda m: m.tensor([-256], dtype=m.uint8), RuntimeError, "uint8 without overflow"),
        (lambda m: m.tensor([[1], 2]), ValueError, "expected numbers or sequences at dim 1, found both"),
        (lambda m: m.from_numpy(np.zeros(2, complex)), TypeError, r"can't convert np\.ndarray of type numpy\.complex"),
        (lambda m: m.tensor(np.array(["a"])), TypeError, "can't convert np.ndarray of type"),
        (lambda m: m.zeros(2, device="cuda"), RuntimeError, "a CUDA device was asked for, but"),
    ],
)  # fmt: skip
def test_errors(expression: Expression, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        expression(mpigrad)


def test_tensor_copies_and_as_tensor_shares() -> None:
    array = np.zeros(3)
    assert not np.shares_memory(mpigrad.tensor(array).array, array)
    assert mpigrad.as_tensor(array).array is array
    assert not np.shares_memory(mpigrad.as_tensor(array, dtype=mpigrad.float32).array, array)


def test_default_dtype() -> None:
    mpigrad.set_default_dtype(mpigrad.float64)
    try:
        made = [
            mpigrad.tensor(1.5),
            mpigrad.zeros(1),
            mpigrad.rand(1),
            mpigrad.tensor([1]) / 2,
            mpigrad.tensor([True]) + 1.5,
        ]
        assert {t.dtype for t in made} == {mpigrad.float64}
        assert repr(made[0]) == "tensor(1.5000)"
    finally:
        mpigrad.set_default_dtype(mpigrad.float32)
    assert mpigrad.get_default_dtype() is mpigrad.float32


def test_fork_rng() -> None:
    mpigrad.manual_seed(1)
    first = mpigrad.rand(2)
    mpigrad.manual_seed(1)
    with mpigrad.random.fork_rng():
        mpigrad.rand(9)
    np.testing.assert_array_equal(mpigrad.rand(2), first)
    with mpigrad.random.fork_rng(enabled=False):
        mpigrad.manual_seed(1)
    np.testing.assert_array_equal(mpigrad.rand(2), first)
