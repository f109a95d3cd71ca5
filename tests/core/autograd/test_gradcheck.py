"""gradcheck finds a wrong derivative, and passes right ones."""

from typing import Any

import pytest
from mpigrad.autograd import gradcheck, gradgradcheck

import mpigrad


def leaf(*shape: int) -> Any:
    return mpigrad.randn(*shape, dtype=mpigrad.float64, requires_grad=True)


class Wrong(mpigrad.autograd.Function):
    """x**2, whose gradient is off by a tenth, or whose gradient's gradient is."""

    @staticmethod
    def forward(ctx: Any, x: Any, once: bool) -> Any:
        ctx.save_for_backward(x)
        ctx.once = once
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return (g * x * 2.2 if ctx.once else g * (2.2 * x - 0.2 * x.detach())), None


def test_right_gradients_pass() -> None:
    a, b = leaf(3, 4), leaf(4, 2)
    assert gradcheck(lambda a, b: (a @ b, (a * a).sum()), (a, b))
    assert gradgradcheck(lambda a, b: (a @ b).tanh(), (a, b))
    assert gradcheck(lambda a: a.sum(), leaf(0, 3))


def test_wrong_gradients_fail() -> None:
    with pytest.raises(RuntimeError, match=r"expected the gradient of input 0 to be .*, found"):
        gradcheck(lambda x: Wrong.apply(x, True), leaf(5))
    assert not gradcheck(lambda x: Wrong.apply(x, True), leaf(5), raise_exception=False)
    assert gradcheck(lambda x: Wrong.apply(x, False), leaf(5))
    assert not gradgradcheck(lambda x: Wrong.apply(x, False), leaf(5), raise_exception=False)


def test_inputs_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one input"):
        gradcheck(lambda x: x, mpigrad.ones(2))
    with pytest.raises(ValueError, match="float64"):
        gradcheck(lambda x: x, mpigrad.ones(2, requires_grad=True))


def test_pytorchs_options() -> None:
    assert gradcheck(mpigrad.sin, leaf(3), nondet_tol=1e-7, check_undefined_grad=False, check_batched_grad=False)
    weights = mpigrad.ones(3, dtype=mpigrad.float64, requires_grad=True)
    assert gradgradcheck(mpigrad.sin, leaf(3), weights, gen_non_contig_grad_outputs=True)
