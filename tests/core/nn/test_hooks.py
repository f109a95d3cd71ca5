"""Hooks of modules against torch."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

Expression = Callable[[Any], Any]
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def linear(m: Any) -> Any:
    model = m.nn.Linear(2, 2)
    m.nn.init.constant_(model.weight, 0.5)
    m.nn.init.ones_(model.bias)
    return model


def pair(m: Any) -> Any:
    """Two inputs and two outputs, one of each not a tensor."""

    class Pair(m.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, y: Any, scale: float = 1.0, *, shift: float = 0.0) -> Any:
            return x * y * scale + shift, "text", x + y

    return Pair()


def inputs(m: Any, learned: bool = True) -> list[Any]:
    return [m.tensor([[1.0, 2.0]]).requires_grad_(learned), m.tensor([[3.0, 5.0]]).requires_grad_(learned)]


def forward(*hooks: Callable[[Any, list[Any]], Any]) -> Expression:
    """What a linear layer gives with these hooks, and what they saw."""

    def run(m: Any) -> Any:
        seen: list[Any] = []
        model = linear(m)
        handles = [hook(model, seen) for hook in hooks]
        first = model(inputs(m)[0])
        again = deepcopy(model)(inputs(m)[0])
        for handle in handles:
            handle.remove()
        return [first, again, model(inputs(m)[0]), seen]

    return run


def backward(
    *hooks: Callable[[Any, list[Any]], Any],
    outputs: Callable[[Any], Any] = lambda out: (out[0] * out[2]).sum(),
    learned: bool = True,
) -> Expression:
    """The gradients through a module of two inputs and two outputs with these hooks, and what they saw."""

    def run(m: Any) -> Any:
        seen: list[Any] = []
        model, (x, y) = pair(m), inputs(m, learned)
        scale = m.tensor(2.0).requires_grad_()
        handles = [hook(model, seen) for hook in hooks]
        outputs(model(x, y, scale, shift=0.5)).backward()
        result = [x.grad, y.grad, present([scale.grad]), list(seen)]
        for handle in handles:
            handle.remove()
        outputs(model(x, y, scale)).backward()
        return [*result, x.grad, y.grad, len(seen)]

    return run


def present(gradients: Any) -> list[Any]:
    """Without those that are missing here and zeros in torch."""
    return [g for g in gradients if g is not None and g.any()]


def second(m: Any) -> Any:
    """Gradients of gradients through a hook."""
    model, (x, y) = pair(m), inputs(m)
    model.register_full_backward_hook(lambda mod, into, out: tuple(None if g is None else g * 3 for g in into))
    first, _, last = model(x, y)
    (grad,) = m.autograd.grad((first * last).sum(), [x], create_graph=True)
    return [grad, m.autograd.grad(grad.sum(), [x, y])]


def in_one_part(m: Any) -> Any:
    """The gradient of one input only, and a module without gradients at all."""
    seen: list[Any] = []
    model, (x, y) = pair(m), inputs(m)
    model.register_full_backward_hook(lambda mod, into, out: seen.append(out))
    found = m.autograd.grad(model(x, y)[0].sum(), [y])
    with m.no_grad():
        return [found, len(seen), model(x, y)]


RETURNED = lambda value: lambda mod, seen: mod.register_forward_hook(lambda *a: value)
SAME: list[Expression] = [
    forward(lambda mod, seen: mod.register_forward_hook(lambda m, args, out: seen.append((args, out)))),
    forward(lambda mod, seen: mod.register_forward_hook(lambda m, args, out: out * 2)),
    forward(lambda mod, seen: mod.register_forward_hook(lambda m, a, kw, out: seen.append((a, kw)), with_kwargs=True)),
    forward(lambda mod, seen: mod.register_forward_pre_hook(lambda m, args: seen.append(args))),
    forward(lambda mod, seen: mod.register_forward_pre_hook(lambda m, args: args[0] * 2)),
    forward(lambda mod, seen: mod.register_forward_pre_hook(lambda m, args: (args[0] * 2,))),
    forward(lambda mod, seen: mod.register_forward_pre_hook(lambda m, a, kw: ((a[0] + 1,), kw), with_kwargs=True)),
    forward(lambda mod, seen: mod.register_forward_pre_hook(lambda m, a, kw: 1, with_kwargs=True)),
    forward(
        lambda mod, seen: mod.register_forward_hook(lambda *a: seen.append(1)),
        lambda mod, seen: mod.register_forward_hook(lambda *a: seen.append(2)),
        lambda mod, seen: mod.register_forward_hook(lambda *a: seen.append(3), prepend=True),
    ),
    forward(RETURNED("text"), RETURNED(None)),
    backward(lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append((into, out)))),
    backward(
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append((into, out))),
        outputs=lambda out: out[0].sum(),
    ),
    backward(
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append((present(into), out))),
        outputs=lambda out: out[2].sum() + (out[2] * 3).sum(),
    ),
    backward(
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: (into[0] * 2, None, into[2] * 3)),
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append(into)),
    ),
    backward(lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: into[:1])),
    backward(
        lambda mod, seen: mod.register_full_backward_pre_hook(lambda m, out: (out[0] * 2, *out[1:])),
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append((into, out))),
    ),
    backward(lambda mod, seen: mod.register_full_backward_pre_hook(lambda m, out: seen.append(out))),
    backward(lambda mod, seen: mod.register_full_backward_pre_hook(lambda m, out: out[:1])),
    backward(
        lambda mod, seen: mod.register_full_backward_hook(lambda m, into, out: seen.append((present(into), out))),
        learned=False,
    ),
    second,
    in_one_part,
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME, ids=str)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


def no_input_learns(m: Any) -> Any:
    seen: list[Any] = []
    model = linear(m)
    model.register_full_backward_hook(lambda mod, into, out: seen.append((into, out)))
    model(inputs(m, learned=False)[0]).sum().backward()
    return [seen, model.weight.grad]


def test_no_input_learns(same: Callable[[Expression], None]) -> None:
    same(no_input_learns)


@pytest.mark.parametrize("fails", ["forward", "hook"])
def test_hooks_that_are_always_called(fails: str, same: Callable[[Expression], None]) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("no result")

    def run(m: Any) -> Any:
        seen: list[Any] = []
        model = pair(m)
        model.register_forward_hook(lambda mod, args, out: seen.append(out), always_call=True)
        model.register_forward_hook(fail)
        model.register_forward_hook(lambda mod, args, kwargs, out: seen.append(out), with_kwargs=True, always_call=True)
        model.register_forward_hook(lambda mod, args, out: seen.append("not reached"))
        model.forward = fail if fails == "forward" else model.forward
        with pytest.raises(KeyError):
            model(*inputs(m))
        return seen

    same(run)


class Counter:
    """A hook with a state."""

    calls = 0

    def __call__(self, *args: Any) -> None:
        self.calls += 1


def test_a_deep_copy_has_hooks_of_its_own(same: Callable[[Expression], None]) -> None:
    def run(m: Any) -> Any:
        model, hook = linear(m), Counter()
        model.register_forward_hook(hook)
        deepcopy(model)(inputs(m)[0])
        return hook.calls

    same(run)


def test_a_hook_before_loading_sees_the_entries_of_its_module(same: Callable[[Expression], None]) -> None:
    def rename(mod: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        seen.append((sorted(state), prefix))
        state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")

    seen: list[Any] = []

    def run(m: Any) -> Any:
        seen.clear()
        model = m.nn.ModuleDict({"a": linear(m), "b": linear(m)})
        model["a"].register_load_state_dict_pre_hook(rename)
        state = {k.replace("a.weight", "a.kernel"): v + 1 for k, v in model.state_dict().items()}
        return [model.load_state_dict(state), model.state_dict(), list(state), list(seen)]

    same(run)
