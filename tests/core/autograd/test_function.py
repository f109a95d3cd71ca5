"""Custom Functions, as in PyTorch."""

from typing import Any

import numpy as np
import pytest

import mpigrad


def leaf(m: Any, *values: float) -> Any:
    return m.tensor(values or (1.0, -2.0, 3.0), dtype=m.float64, requires_grad=True)


def cube(m: Any) -> Any:
    class Cube(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 3 * x**2

    return Cube


def exponential(m: Any) -> Any:
    class Exp(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (y,) = ctx.saved_tensors
            return g * y

    return Exp


def several(m: Any, materialize: bool = True) -> Any:
    """Two outputs, one of them saved, an input that is no tensor, and a constant."""

    class Several(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, n: int, w: Any) -> Any:
            ctx.set_materialize_grads(materialize)
            product, power = x * w, x**n
            sign = x > 0
            ctx.mark_non_differentiable(sign)
            ctx.save_for_backward(x, w, power, None)
            ctx.n = n
            return product, power, sign

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any, _: Any) -> Any:
            x, w, power, none = ctx.saved_tensors
            assert none is None and ctx.needs_input_grad == (True, False, True)
            towards_x = 0 if g is None else g * w
            if h is not None:
                towards_x = towards_x + h * ctx.n * power / x
            return towards_x, None, None if g is None else g * x

    return Several


def second(m: Any, y: Any, *xs: Any) -> Any:
    first = m.autograd.grad(y, xs, create_graph=True)
    return [y, *first, *m.autograd.grad(sum((g * g).sum() for g in first), xs)]


@pytest.mark.parametrize("make", [cube, exponential])
def test_one_output(make: Any, same: Any) -> None:
    def expression(m: Any) -> Any:
        x = leaf(m)
        y = make(m).apply(x)
        return [*second(m, (y * y).sum(), x), y.grad_fn.name()]

    same(expression)


@pytest.mark.parametrize("materialize", [True, False])
@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)])
def test_several_outputs(materialize: bool, used: Any, same: Any) -> None:
    def expression(m: Any) -> Any:
        x, w = leaf(m), leaf(m, 2.0, 5.0, -1.0)
        outputs = several(m, materialize).apply(x, 3, w)
        loss = sum((outputs[i] ** 2).sum() for i in used)
        loss.backward(retain_graph=True)
        return [x.grad, w.grad, outputs[2].requires_grad, second(m, loss, x)]

    same(expression)


def test_setup_context(same: Any) -> None:
    def expression(m: Any) -> Any:
        class Double(m.autograd.Function):
            @staticmethod
            def forward(x: Any, factor: float) -> Any:
                return x * factor

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
                ctx.factor = inputs[1]

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return g * ctx.factor, None

        x = leaf(m)
        y = Double.apply(x, 2.0)
        y.sum().backward(retain_graph=True)
        y.sum().backward()  # nothing was saved
        return y, x.grad

    same(expression)


def test_dirty_input(same: Any) -> None:
    def expression(m: Any) -> Any:
        class Increase(m.autograd.Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                x.add_(1)
                ctx.mark_dirty(x)
                return x

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return g * 7

        x = leaf(m)
        y = x * 2
        z = Increase.apply(y)
        (z * y).sum().backward()
        return z is y, y, x.grad

    same(expression)


def run(m: Any, forward: Any, backward: Any, *inputs: Any, **names: Any) -> Any:
    """The result, and the gradient of the first input."""
    function = type(
        "Mine", (m.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    )
    y = function.apply(*inputs, **names)
    y.sum().backward()
    return y, inputs[0].grad


def doubled(ctx: Any, x: Any) -> Any:
    x.mul_(2)
    ctx.mark_dirty(x)
    return x


def same_as(ctx: Any, g: Any) -> Any:
    return g


GRADIENTS: list[Any] = [
    lambda m: run(m, lambda ctx, x: x.sum(), lambda ctx, g: m.ones(4, 3), leaf(m)),  # summed over what was broadcast
    lambda m: run(m, lambda ctx, x: x.sum(), lambda ctx, g: m.ones(1), leaf(m)),
    lambda m: run(m, lambda ctx, x: x.sum(), lambda ctx, g: m.ones(2), leaf(m)),
    lambda m: run(m, lambda ctx, x: x.sum(), lambda ctx, g: m.ones(3, dtype=m.float32), leaf(m)),
    lambda m: run(m, lambda ctx, x, by=2: x * by, lambda ctx, g: (g * 5, None), leaf(m), by=3),
    lambda m: run(m, lambda ctx, x, by=2: x * by, lambda ctx, g: (g * 5, None), leaf(m)),
    lambda m: run(m, lambda ctx, x, by: x * by, lambda ctx, g: g, leaf(m), leaf(m)),
    lambda m: run(m, doubled, same_as, leaf(m)),
    lambda m: run(m, lambda ctx, x: doubled(ctx, x) * 1, same_as, leaf(m) * 1),
    lambda m: run(m, lambda ctx, x: ctx.save_for_backward(3), same_as, leaf(m)),
]


@pytest.mark.parametrize("expression", GRADIENTS)
def test_what_a_function_must_return(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize(
    "expression",
    [
        lambda m: cube(m).apply(leaf(m).detach()).requires_grad,
        lambda m: freed(m, cube(m)),
        lambda m: changed(m, cube(m)),
        lambda m: wrong_count(m),
        lambda m: twice(m),
    ],
)
def test_errors(expression: Any, same_class: Any, same: Any) -> None:
    try:
        expression(mpigrad)
    except Exception:  # noqa: BLE001  (compared below)
        same_class(expression)
    else:
        same(expression)


def freed(m: Any, function: Any) -> None:
    y = function.apply(leaf(m)).sum()
    y.backward()
    y.backward()


def changed(m: Any, function: Any) -> None:
    x = leaf(m) * 1
    y = function.apply(x)
    x.add_(1)
    y.sum().backward()


def wrong_count(m: Any) -> None:
    class Wrong(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g, g

    Wrong.apply(leaf(m)).sum().backward()


def twice(m: Any) -> Any:
    class Once(m.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @m.autograd.function.once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * g * ctx.saved_tensors[0]

    x = leaf(m)
    (g,) = m.autograd.grad((Once.apply(x) ** 2).sum(), x, create_graph=True)
    g.sum().backward()


def test_no_reference_cycle() -> None:
    import gc
    import weakref

    gc.collect()
    gc.disable()
    try:
        y = exponential(mpigrad).apply(leaf(mpigrad))
        memory = weakref.ref(y)
        del y
        assert memory() is None
    finally:
        gc.enable()
    assert np.isfinite(1.0)
