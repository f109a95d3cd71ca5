"""The tape and the backward pass: accumulation, errors, modes, hooks, in-place ops, memory."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import autograd
from mpigrad.core.autograd import Node, queue_callback, running_backward

Expression = Callable[[Any], Any]


def leaf(m: Any, *values: float) -> Any:
    return m.tensor(values or (1.0, -2.0, 3.0), dtype=m.float64, requires_grad=True)


def case(expression: Expression, name: str) -> Any:
    return pytest.param(expression, id=name)


def gradients(m: Any, loss: Callable[..., Any], *leaves: Any) -> list[Any]:
    """The `.grad` of each leaf after loss(*leaves).backward()."""
    loss(*leaves).backward()
    return [v.grad for v in leaves]


def twice(m: Any, loss: Callable[[Any], Any], **options: Any) -> Any:
    x = leaf(m)
    value = loss(x)
    value.backward(**options)
    value.backward()
    return x.grad


def in_place(change: Callable[[Any, Any], Any], use: Callable[[Any], Any] = lambda y: y) -> Expression:
    """Gradients of w and x where y = x * 1 is changed by w and then summed."""

    def run(m: Any) -> Any:
        x, w = leaf(m), leaf(m, 0.5, 2.0, -1.0)
        y = x * 1
        result = change(y, w)
        use(y if result is None else result).sum().backward()
        return [x.grad, w.grad, y.is_leaf]

    return run


def hooked(m: Any, hook: Any, after: Any = None) -> Any:
    """The gradient of a leaf behind exp, with a hook on the result and one on its node."""
    x = leaf(m)
    y = x.exp()
    if hook is not None:
        hook.__name__ = "hook"
        y.register_hook(hook)
    if after is not None:
        y.grad_fn.register_hook(after)
    (y * y).sum().backward()
    return x.grad


def set_item(key: Any, value: Any) -> Callable[[Any, Any], None]:
    return lambda y, w: y.__setitem__(key, value(w) if callable(value) else value)


SAME: list[Any] = [
    case(lambda m: gradients(m, lambda x: (x * x).sum(), leaf(m)), "the same tensor twice in one op"),
    case(lambda m: gradients(m, lambda x: (x * 2 + x * 3 + x).sum(), leaf(m)), "a leaf in several ops"),
    case(lambda m: gradients(m, lambda x: ((x.exp() * x.sin()) + x.exp()).sum(), leaf(m)), "diamonds"),
    case(lambda m: gradients(m, lambda x, y: (x * 2).sum(), leaf(m), leaf(m)), "a leaf that takes no part"),
    case(lambda m: gradients(m, lambda x: x, leaf(m, 2.0)), "the leaf itself"),
    case(lambda m: [m.autograd.backward(x := leaf(m), leaf(m)), x.grad], "one tensor and its gradient, no lists"),
    case(lambda m: gradients(m, lambda x: x.detach().sum() + x.sum(), leaf(m)), "detach"),
    case(lambda m: twice(m, lambda x: x.sum()), "backward twice, nothing saved"),
    case(lambda m: twice(m, lambda x: x.exp().sum(), retain_graph=True), "backward twice, retained"),
    case(lambda m: twice(m, lambda x: x.exp().sum()), "backward twice, freed"),
    *[
        case(lambda m, f=f: twice(m, f), f"backward twice, {name}")
        for name, f in {
            "relu": lambda x: x.relu().sum(),
            "max": lambda x: x.max(0).values,
            "index": lambda x: x[[0, 1]].sum(),
            "slice": lambda x: x[:2].sum(),
            "softmax": lambda x: x.softmax(0).sum(),
            "matmul": lambda x: x @ x,
            "where": lambda x: (x > 0).logical_not().double().mul(x).sum(),
        }.items()
    ],
    case(lambda m: leaf(m).backward(), "backward of a vector"),
    case(lambda m: (leaf(m) * 2).backward(), "backward of a computed vector"),
    case(lambda m: m.zeros(()).backward(), "backward of a constant"),
    case(lambda m: (leaf(m) * 2).backward(m.ones(2)), "gradient of another shape"),
    case(lambda m: m.autograd.grad(leaf(m).sum(), m.zeros(3)), "grad of a constant"),
    case(lambda m: m.autograd.grad(leaf(m).sum(), leaf(m)), "grad, unused"),
    case(lambda m: m.autograd.grad(leaf(m).sum(), leaf(m), allow_unused=True), "grad, unused allowed"),
    case(lambda m: m.autograd.grad(leaf(m), leaf(m)), "grad of a vector"),
    case(lambda m: leaf(m).requires_grad_(False).requires_grad_().is_leaf, "requires_grad_"),
    case(lambda m: m.tensor([1]).requires_grad_(), "requires_grad_ of integers"),
    case(lambda m: (leaf(m) * 2).requires_grad_(False), "requires_grad_(False) of a result"),
    case(lambda m: m.zeros(2).retain_grad(), "retain_grad of a constant"),
    case(lambda m: m.zeros(2).register_hook(print), "a hook on a constant"),
    case(lambda m: (leaf(m) * 2).register_post_accumulate_grad_hook(print), "a leaf's hook on a result"),
    case(lambda m: [leaf(m).is_leaf, (leaf(m) * 2).is_leaf, (m.ones(2) * 2).is_leaf], "is_leaf"),
    case(lambda m: m.autograd.grad(leaf(m).sum(), []), "grad of nothing"),
    case(lambda m: m.autograd.grad((x := leaf(m)).exp().sum(), x, None, True, True, True, True), "grad, by position"),
    case(lambda m: (m.ones(2, requires_grad=True) * 2).__setattr__("requires_grad", True), "requires_grad of a result"),
    case(lambda m: leaf(m).__setattr__("data", m.ones(3, dtype=m.int64)), "integers as data"),
    case(lambda m: leaf(m).__setattr__("data", 3), "a number as data"),
    case(lambda m: m.autograd.Variable(leaf(m) * 2).requires_grad, "a Variable of a result"),
    case(lambda m: gradients(m, lambda x: (x * 3).sum(), m.autograd.Variable(m.ones(2), True)), "a Variable as a leaf"),
    case(lambda m: [m.autograd.Variable(t := m.ones(2)).add_(1), t, t._version], "the memory of a Variable"),
    case(lambda m: m.autograd.Variable(3), "a Variable of a number"),
    case(lambda m: isinstance(m.ones(2), m.autograd.Variable), "tensors are Variables"),
    case(lambda m: hooked(m, lambda g: g[:2]), "a hook changes the shape"),
    case(lambda m: hooked(m, lambda g: g.float()), "a hook changes the dtype"),
    case(lambda m: hooked(m, lambda g: 3), "a hook returns a number"),
    case(lambda m: hooked(m, None, after=lambda to, of: (to[0] * of[0] * 2,)), "a hook of a node"),
    case(lambda m: hooked(m, None, after=lambda to, of: None), "a hook of a node that looks"),
    case(lambda m: hooked(m, lambda g: g * 2, after=lambda to, of: (to[0] * 0 + of[0],)), "hooks before and after"),
    case(in_place(lambda y, w: y.sigmoid().mul_(2)), "the result of sigmoid"),
    case(lambda m: leaf(m)[0].add_(1), "in place on a view of a leaf"),
    case(lambda m: leaf(m).__setitem__(0, 1), "writing into a leaf"),
    case(lambda m: leaf(m).__setitem__(slice(None), m.ones(3)), "writing into a slice of a leaf"),
    case(lambda m: leaf(m).__setitem__([0, 1], 1), "writing into a leaf by index"),
    case(lambda m: leaf(m).copy_(m.ones(3)), "copying into a leaf"),
    case(lambda m: leaf(m).add_(1), "in place on a leaf"),
    case(lambda m: leaf(m).zero_(), "zero_ on a leaf"),
    *[
        case(in_place(change), f"in place: {name}")
        for name, change in {
            "add_": lambda y, w: y.add_(w),
            "+=": lambda y, w: y.__iadd__(w),
            "sub_": lambda y, w: y.sub_(w),
            "mul_": lambda y, w: y.mul_(w),
            "mul_ by a number": lambda y, w: y.mul_(3),
            "div_": lambda y, w: y.div_(w),
            "pow_": lambda y, w: y.pow_(3),
            "several": lambda y, w: y.mul_(w).add_(y.exp()).mul_(w),
            "fill_": lambda y, w: y.fill_(2.0),
            "zero_": lambda y, w: y.zero_(),
            "copy_": lambda y, w: y.copy_(w),
            "copy_ of float32": lambda y, w: y.copy_(w.float()),
            "an item": set_item(0, 5.0),
            "an item of w": set_item(0, lambda w: w[1] * 2),
            "a slice of w": set_item(slice(0, 2), lambda w: w[1]),
            "by index": set_item([2, 0], lambda w: w[:2] * w[1:]),
            "an op that saved its input": lambda y, w: [y.exp(), y.add_(1)][0],
            "an op that saved neither": lambda y, w: [y + w, y.mul_(2)][0],
            "a wider result": lambda y, w: y.add_(w.reshape(3, 1)),
        }.items()
    ],
    case(lambda m: m.autograd.grad(leaf(m).float().add_(w := leaf(m)).sum(), w), "in place: mixed, recorded"),
    case(lambda m: m.ones(3, dtype=m.int32).add_(m.ones(3, dtype=m.int64)), "in place: long into int"),
    case(lambda m: m.ones(3).add_(m.ones(3).double()), "in place: double into float"),
    case(lambda m: m.ones(2).detach().add_(1), "in place on a constant"),
]
SAME_CLASS: list[Any] = [
    case(lambda m: m.ones(3, dtype=m.int64).add_(1.5), "in place: float into int"),
    case(lambda m: m.tensor([True]).add_(1), "in place: int into bool"),
    case(lambda m: (leaf(m) * 2).backward(2.0), "gradient that is no tensor"),
    case(in_place(lambda y, w: y.mul_(y)), "mul_ by itself"),
    case(in_place(lambda y, w: y.exp().add_(1)), "an op that saved its result"),
    case(in_place(lambda y, w: [w * y, y.mul_(2)][0]), "the multiplier"),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


def test_more_gradients_than_tensors() -> None:
    with pytest.raises(RuntimeError, match="got 1 tensors and 2 gradients"):
        autograd.backward([leaf(mpigrad).sum()], [None, None])


def test_accumulates_into_one_gradient() -> None:
    x = leaf(mpigrad)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first
    assert first.tolist() == [5.0] * 3


def test_accumulation_is_noticed_where_the_gradient_was_used() -> None:
    x, w = leaf(mpigrad), leaf(mpigrad)
    (x * 2).sum().backward()
    penalty = (w * x.grad).sum()
    (x * 2).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


@pytest.mark.parametrize("create_graph", [False, True])
def test_leaves_do_not_share_their_gradients(create_graph: bool) -> None:
    x, y = leaf(mpigrad), leaf(mpigrad)
    (x + y).sum().backward(create_graph=create_graph)
    x.grad.mul_(5)
    assert y.grad.tolist() == [1.0] * 3


class TestGrad:
    def test_of_leaves_and_results(self) -> None:
        x, w = leaf(mpigrad), leaf(mpigrad)
        y = x * w
        z = y.exp() + w
        got = autograd.grad(z, [y, w, z], mpigrad.ones_like(z))
        np.testing.assert_allclose(got[0].numpy(), np.exp(y.detach().numpy()))
        np.testing.assert_allclose(got[1].numpy(), np.exp(y.detach().numpy()) * x.detach().numpy() + 1)
        assert got[2].tolist() == [1.0] * 3
        assert x.grad is None and w.grad is None

    def test_leaves_the_rest_of_the_graph_alone(self) -> None:
        x = leaf(mpigrad)
        calls = []
        y = x.exp()
        y.register_hook(lambda g: calls.append("y"))
        x.register_post_accumulate_grad_hook(calls.append)
        z = y * y
        (got,) = autograd.grad(z.sum(), z)
        assert got.tolist() == [1.0] * 3
        assert calls == []
        y.sum().backward()  # y's own node was not run, so it was not freed
        assert calls == ["y", x]

    def test_several_outputs(self) -> None:
        x = leaf(mpigrad, 3.0)
        y, z = x * x, x * 2
        assert autograd.grad((y, z), x, (mpigrad.tensor([1.0]).double(), None))[0].tolist() == [8.0]

    def test_create_graph(self) -> None:
        x = leaf(mpigrad, 2.0)
        value = x**4
        for expected in (32.0, 48.0, 48.0, 24.0):
            (value,) = autograd.grad(value, x, create_graph=True)
            assert value.item() == expected
        (x**3).backward(create_graph=True)
        assert x.grad.requires_grad


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": lambda: mpigrad.no_grad(),
    "enable_grad": lambda: mpigrad.enable_grad(),
    "set_grad_enabled(True)": lambda: mpigrad.set_grad_enabled(True),
    "set_grad_enabled(False)": lambda: mpigrad.set_grad_enabled(False),
}


@pytest.fixture(autouse=True)
def recording_is_left_on() -> Iterator[None]:
    yield
    assert mpigrad.is_grad_enabled()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outer", [True, False])
class TestModes:
    def test_as_context(self, mode: str, outer: bool) -> None:
        with mpigrad.set_grad_enabled(outer):
            with pytest.raises(KeyError), MODES[mode]():
                assert (
                    mpigrad.is_grad_enabled()
                    == (leaf(mpigrad) * 2).requires_grad
                    == (mode[-6:] in ("e_grad", "(True)"))
                )
                raise KeyError
            assert mpigrad.is_grad_enabled() == outer

    def test_as_decorator(self, mode: str, outer: bool) -> None:
        def function(depth: int) -> list[bool]:
            with mpigrad.enable_grad():
                below = function_in_mode(depth - 1) if depth else []
            return [mpigrad.is_grad_enabled(), *below]

        with mpigrad.set_grad_enabled(outer):
            function_in_mode = MODES[mode]()(function)
            assert mpigrad.is_grad_enabled() == outer
            assert function_in_mode(2) == [mode in ("enable_grad", "set_grad_enabled(True)")] * 3
            assert mpigrad.is_grad_enabled() == outer


def test_set_grad_enabled_at_once() -> None:
    mpigrad.set_grad_enabled(False)
    assert not mpigrad.is_grad_enabled()
    mpigrad.set_grad_enabled(True)


def test_decorator_without_parentheses() -> None:
    assert mpigrad.no_grad(mpigrad.is_grad_enabled)() is False


def test_decorated_generator(same: Callable[[Expression], None]) -> None:
    """Its steps are in the mode, what happens between them is not; it gets what is sent and thrown."""

    def expression(m: Any) -> Any:
        @m.no_grad()
        def steps() -> Any:
            sent = yield m.is_grad_enabled()
            try:
                yield sent, m.is_grad_enabled()
            except KeyError:
                yield "caught", m.is_grad_enabled()
            return "end"

        running = steps()
        seen = [
            next(running),
            m.is_grad_enabled(),
            running.send("sent"),
            running.throw(KeyError()),
            m.is_grad_enabled(),
        ]
        with pytest.raises(StopIteration) as end:
            next(running)
        return seen, end.value.value

    same(expression)


def test_each_thread_has_its_own_mode() -> None:
    found = []
    with mpigrad.no_grad():
        thread = threading.Thread(target=lambda: found.append(mpigrad.is_grad_enabled()))
        thread.start()
        thread.join()
    assert found == [True]


class TestHooks:
    def test_replace_the_gradient(self) -> None:
        x = leaf(mpigrad)
        y = x * 1
        seen = []
        y.register_hook(lambda g: g * 10)
        y.register_hook(lambda g: seen.append(g.tolist()))
        handle = y.register_hook(lambda g: g * 1000)
        handle.remove()
        handle.remove()
        (y * 2).sum().backward()
        assert seen == [[20.0] * 3]
        assert x.grad.tolist() == [20.0] * 3

    def test_on_a_leaf(self) -> None:
        x = leaf(mpigrad)
        x.register_hook(lambda g: g * 10)
        (x * 2 + x).sum().backward()
        assert x.grad.tolist() == [30.0] * 3
        assert autograd.grad(x.sum(), x)[0].tolist() == [10.0] * 3

    def test_removing_itself(self) -> None:
        x = leaf(mpigrad)
        calls: list[str] = []
        handles = [x.register_post_accumulate_grad_hook(lambda _: (calls.append("once"), handles[0].remove()))]
        x.register_post_accumulate_grad_hook(lambda _: calls.append("always"))
        for _ in range(2):
            x.sum().backward()
        assert calls == ["once", "always", "always"]

    @pytest.mark.parametrize("first", ["retain_grad", "register_hook"])
    def test_retain_grad_comes_last(self, first: str) -> None:
        y = leaf(mpigrad) * 1
        register = {"retain_grad": y.retain_grad, "register_hook": lambda: y.register_hook(lambda g: g * 10)}
        register.pop(first)()
        [other() for other in register.values()]
        y.retain_grad()
        for k in (1, 2):
            y.sum().backward(retain_graph=True)
            assert y.grad.tolist() == [10.0 * k] * 3
        assert y.retains_grad

    def test_retain_grad_moves_on_with_in_place_ops(self) -> None:
        y = leaf(mpigrad) * 1
        y.retain_grad()
        y.mul_(3)
        y.sum().backward()
        assert y.grad.tolist() == [1.0] * 3

    def test_retain_grad_of_a_leaf_changes_nothing(self) -> None:
        x = leaf(mpigrad)
        x.retain_grad()
        x.sum().backward()
        assert x.grad.tolist() == [1.0] * 3 and not x.retains_grad

    def test_post_accumulate_hook_fires_once_with_the_final_gradient(self) -> None:
        x = leaf(mpigrad)
        seen = []
        x.register_post_accumulate_grad_hook(lambda t: seen.append((t, t.grad.tolist())))
        (x * 2 + x * 3 + x).sum().backward()
        assert seen == [(x, [6.0] * 3)]

    def test_callbacks_run_in_order_after_all_gradients(self) -> None:
        x, y = leaf(mpigrad), leaf(mpigrad)
        calls: list[Any] = []

        def final(tensor: Any) -> None:
            first = not calls
            calls.append(tensor)
            queue_callback(lambda: calls.append((len(calls), mpigrad.is_grad_enabled())))
            if first:
                running = running_backward()
                assert running.reaches(x) and running.reaches(y) and running.reaches(z.grad_fn)
                assert not running.reaches(leaf(mpigrad))

        for v in (x, y):
            v.register_post_accumulate_grad_hook(final)
        z = x * y
        z.sum().backward()
        assert set(calls[:2]) == {x, y}
        assert calls[2:] == [(2, True), (3, True)]

    def test_nothing_runs_outside(self) -> None:
        with pytest.raises(RuntimeError, match="expected a running backward pass"):
            running_backward()
        with pytest.raises(RuntimeError, match="expected a running backward pass"):
            queue_callback(lambda: None)

    def test_backward_within_backward(self) -> None:
        x, y = leaf(mpigrad), leaf(mpigrad)
        outer = []

        def inner(_: Any) -> None:
            outer.append(running_backward())
            with mpigrad.enable_grad():
                (y * 2).sum().backward()
            assert running_backward() is outer[0]

        x.register_post_accumulate_grad_hook(inner)
        x.sum().backward()
        assert y.grad.tolist() == [2.0] * 3

    def test_an_error_ends_the_pass(self) -> None:
        x = leaf(mpigrad)

        def fail(_: Any) -> None:
            raise KeyError("hook")

        x.register_post_accumulate_grad_hook(fail)
        with pytest.raises(KeyError, match="hook"):
            x.sum().backward()
        with pytest.raises(RuntimeError, match="expected a running backward pass"):
            running_backward()


def _set(base: Any, key: Any, value: Any) -> None:
    base[key] = value


CHANGES: list[Any] = [
    lambda m, base, row, flat, w: row.mul_(2),
    lambda m, base, row, flat, w: row.mul_(w),
    lambda m, base, row, flat, w: base.mul_(w),
    lambda m, base, row, flat, w: base.copy_(w),
    lambda m, base, row, flat, w: flat.pow_(2),
    lambda m, base, row, flat, w: flat[1:4].mul_(w),
    lambda m, base, row, flat, w: base.t()[0].sub_(w * w).div_(w),
    lambda m, base, row, flat, w: (row.mul_(2), base.mul_(w), flat.add_(1)),
    lambda m, base, row, flat, w: _set(base, 0, 1.0),
    lambda m, base, row, flat, w: _set(base, (slice(None), 1), w),
    lambda m, base, row, flat, w: _set(row, [0, 2], w[:2]),
    lambda m, base, row, flat, w: _set(row, slice(1, None), w[1]),
    lambda m, base, row, flat, w: _set(flat, flat > 0, w[0]),
    lambda m, base, row, flat, w: row.zero_(),
]


class TestInPlace:
    def test_version_error_says_what_was_changed(self) -> None:
        y = leaf(mpigrad).exp()
        y.add_(1)
        text = (
            r"one of the variables needed for gradient computation has been modified by an inplace operation: "
            r"\[mpigrad.DoubleTensor \[3\]\], which is output 0 of Exp, is at version 1; expected version 0 instead. "
            r"Hint: enable anomaly detection"
        )
        with pytest.raises(RuntimeError, match=text):
            y.sum().backward()

    def test_data_goes_unnoticed(self) -> None:
        x = leaf(mpigrad)
        y = x.exp()
        y.data.mul_(2)
        x.data.mul_(0)
        y.sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp([1, -2, 3]))

    def test_detach_is_noticed(self) -> None:
        y = leaf(mpigrad).exp()
        y.detach().mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("order", [1, 2])
    def test_memory_shared_with_views(self, change: Any, order: int, same: Any) -> None:
        """What is changed through one tensor has its history in all that share the memory."""

        def expression(m: Any) -> Any:
            x = leaf(m)
            w = leaf(m) * 2
            base = m.cat([x, w, x * w]).view(3, 3).t()
            row, flat = base[1], base.t().reshape(-1)
            change(m, base, row, flat, w)
            value = ((base**2).sum(0) * row * m.arange(3) + (flat**3).sum()).sum()
            (gradient,) = m.autograd.grad(value, x, create_graph=True)
            found = [base, row, flat, gradient]
            return found if order == 1 else m.autograd.grad(gradient.sum(), x)

        same(expression)

    def test_constants_gain_history_through_a_view(self, same: Any) -> None:
        def expression(m: Any) -> Any:
            x, constant = leaf(m), m.zeros(2, 3, dtype=m.float64)
            first, second = constant[0], constant[1]
            first.add_(x)
            constant *= 2
            constant.sum().backward()
            return constant, first, second, second.requires_grad, first.requires_grad, x.grad

        same(expression)

    @pytest.mark.parametrize(
        "change",
        [lambda x: x[0].mul_(2), lambda x: x.mul_(2), lambda x: x.view(3, 1).t().zero_(), lambda x: x.add_(x)],
    )
    def test_leaves_are_not_changed(self, change: Any, same: Any) -> None:
        same(lambda m: change(leaf(m)))

    def test_views_from_no_grad(self, same: Any) -> None:
        def expression(m: Any) -> Any:
            y = leaf(m) * 2
            with m.no_grad():
                view = y[1:]
            view.mul_(2)

        same(expression)

    def test_under_no_grad(self) -> None:
        x = leaf(mpigrad)
        with mpigrad.no_grad():
            x -= 1
            x[0] = 7.0
        assert x.tolist() == [7.0, -3.0, 2.0] and x.is_leaf and x.requires_grad

    def test_expanded_memory_is_not_written(self) -> None:
        for change in (
            lambda v: v.fill_(1),
            lambda v: v.__setitem__(0, 1.0),
            lambda v: v.add_(1),
            lambda v: v.normal_(),
        ):
            with pytest.raises(RuntimeError, match="refers to a single memory location"):
                change(mpigrad.zeros(3).expand(2, 3))


class TestMemory:
    def test_a_long_chain(self) -> None:
        """100,000 nodes: no recursion, neither in the pass nor when the graph is dropped."""
        x = leaf(mpigrad)
        y = x
        for _ in range(50_000):
            y = (y + 1) * 1.0
        y.sum().backward()
        assert x.grad.tolist() == [1.0] * 3
        del y
        y = x
        for _ in range(100_000):
            y = y.neg()
        del y

    def test_wide_diamonds_visit_each_node_once(self) -> None:
        x = y = leaf(mpigrad, 1.0)
        for _ in range(60):
            y = y + y
        y.backward()
        assert x.grad.item() == 2.0**60

    @pytest.mark.parametrize(
        "op",
        {
            "add": lambda y: y + 1,
            "mul by a constant": lambda y: y * mpigrad.ones(3, dtype=mpigrad.float64),
            "sum": lambda y: y.sum(),
            "mean": lambda y: y.mean(),
            "reshape of strided": lambda y: mpigrad.stack([y, y]).T.reshape(6),
            "exp": lambda y: y.exp(),
            "relu": lambda y: y.relu(),
            "softmax": lambda y: y.softmax(0),
            "log_softmax": lambda y: y.log_softmax(0),
            "cat": lambda y: mpigrad.cat([y, y]),
            "index": lambda y: y[[0, 1]],
            "max": lambda y: y.max(0).values,
            "where": lambda y: mpigrad.where(mpigrad.tensor([True, False, True]), y, 0.0),
            "matmul with a constant": lambda y: y @ mpigrad.ones(3, 2, dtype=mpigrad.float64),
            "linear with a constant": lambda y: mpigrad.nn.functional.linear(y, mpigrad.ones(2, 3).double()),
            "dropout": lambda y: mpigrad.nn.functional.dropout(y),
            "float": lambda y: y.float(),
            "nll_loss": lambda y: mpigrad.nn.functional.nll_loss(y, mpigrad.tensor(0)),
        }.items(),
        ids=lambda op: op[0],
    )
    def test_an_activation_that_no_vjp_names_is_freed(self, op: Any) -> None:
        y = leaf(mpigrad) * 1
        array = weakref.ref(y.array)
        result = op[1](y)
        del y
        assert array() is None
        assert result.requires_grad

    def test_saved_operands_are_freed_by_backward(self) -> None:
        y = leaf(mpigrad) * 1
        array = weakref.ref(y.array)
        z = (y * y).sum()
        del y
        assert array() is not None
        z.backward()
        assert array() is None

    def test_no_reference_cycles(self) -> None:
        """Everything goes by reference counts: a collector that runs late costs no memory."""
        model = mpigrad.nn.Sequential(
            mpigrad.nn.Linear(4, 8), mpigrad.nn.Tanh(), mpigrad.nn.Dropout(), mpigrad.nn.Linear(8, 3)
        )
        optimizer = mpigrad.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            hidden = model(mpigrad.randn(5, 4)).reshape(5, 3) * 1
            hidden *= hidden.detach() + 2
            hidden += mpigrad.ones(3)
            hidden.retain_grad()
            parts = mpigrad.cat([hidden[:2], mpigrad.where(hidden[2:] > 0, hidden[2:], 0.0)])
            parts[0] = parts.sum() * 2
            loss = mpigrad.nn.functional.cross_entropy(parts, mpigrad.tensor([0, 1, 2, 0, 1]))
            (extra,) = autograd.grad(loss, model[0].bias, create_graph=True)
            (loss + extra.std() + extra.max(0).values).backward()
            optimizer.step()

        step()
        gc.collect()
        gc.disable()
        try:
            step()
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_nodes() -> None:
    x = leaf(mpigrad)
    y = (x * 2).exp()
    node = y.grad_fn
    assert (
        isinstance(node, Node) and node.name() == "ExpBackward0" and repr(node).startswith("<ExpBackward0 object at 0x")
    )
    ((below, index),) = node.next_functions
    assert below.name() == "MulBackward0" and index == 0
    ((end, _),) = below.next_functions
    assert end.variable is x and end.name() == "torch::autograd::AccumulateGrad" and end.next_functions == ()


class TestOptions:
    def test_backward_into_some_leaves(self, same: Any) -> None:
        def expression(m: Any) -> Any:
            x, w, unused = leaf(m), leaf(m), leaf(m)
            y = (x * w).exp()
            y.sum().backward(inputs=[x, unused], retain_graph=True)
            y.sum().backward(inputs=x)
            return x.grad, w.grad, unused.grad

        same(expression)
        same(lambda m: leaf(m).sum().backward(inputs=[]))

    def test_materialized_gradients(self, same: Any) -> None:
        same(lambda m: m.autograd.grad(leaf(m).sum(), [leaf(m)], materialize_grads=True))
        same(lambda m: m.autograd.grad(leaf(m).sum(), [leaf(m)], allow_unused=False, materialize_grads=True))

    def test_detached_in_place(self, same: Any) -> None:
        def expression(m: Any) -> Any:
            x = leaf(m)
            y = x * 2
            y.detach_()
            (y * x).sum().backward()
            return y.requires_grad, y.is_leaf, x.grad

        same(expression)
        with pytest.raises(RuntimeError, match="Can't detach views in-place"):
            (leaf(mpigrad) * 2)[1:].detach_()

    def test_version(self, same: Any) -> None:
        def expression(m: Any) -> Any:
            x = m.zeros(3)
            x[0] = 1
            x[1:].add_(1)
            return x._version, x[0]._version

        same(expression)
