"""Containers against torch."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

Expression = Callable[[Any], Any]


def three(m: Any) -> list[Any]:
    return [m.nn.Linear(1, 2), m.nn.ReLU(), m.nn.Tanh()]


def changed(kind: str, change: Callable[[Any, Any], Any]) -> Expression:
    """A container of three after a change, with what the change returned."""

    def run(m: Any) -> Any:
        made = getattr(m.nn, kind)
        container = made(*three(m)) if kind == "Sequential" else made(three(m))
        result = change(m, container)
        return [repr(container), [n for n, _ in container.named_children()], repr(result)]

    return run


CHANGES: list[Callable[[Any, Any], Any]] = [
    lambda m, c: c.append(m.nn.Sigmoid()),
    lambda m, c: c.extend([m.nn.Sigmoid(), m.nn.ReLU()]),
    lambda m, c: c.insert(1, m.nn.Sigmoid()),
    lambda m, c: c.insert(3, m.nn.Sigmoid()),
    lambda m, c: c.insert(0, m.nn.Sigmoid()),
    lambda m, c: c.append(1),
    lambda m, c: c[1:],
    lambda m, c: c[-1],
    lambda m, c: c[3],
    lambda m, c: c[-4],
    lambda m, c: c.__setitem__(1, m.nn.Sigmoid()),
    lambda m, c: c.__setitem__(-1, m.nn.Sigmoid()),
    lambda m, c: c.__setitem__(3, m.nn.Sigmoid()),
    lambda m, c: c.__delitem__(0),
    lambda m, c: c.__delitem__(slice(1, None)),
    lambda m, c: c.__delitem__(5),
    lambda m, c: c.pop(1),
    lambda m, c: c.pop(slice(0, 2)),
    lambda m, c: c + c,
    lambda m, c: c.__iadd__(type(c)(*[m.nn.ReLU()] if isinstance(c, m.nn.Sequential) else [[m.nn.ReLU()]])),
    lambda m, c: [len(c), [type(v).__name__ for v in c], c[0] in c],
    lambda m, c: [n for n in dir(c) if n.isdigit()],
]


def parameters(m: Any) -> Any:
    return m.nn.ParameterList([m.ones(2), m.nn.Parameter(m.zeros(1, 2)), "text"])


def named(m: Any) -> Any:
    return m.nn.ParameterDict({"b": m.ones(2), "a": m.nn.Parameter(m.zeros(1, 2))})


def modules(m: Any) -> Any:
    return m.nn.ModuleDict({"b": m.nn.ReLU(), "a": m.nn.Linear(1, 1)})


def after(container: Any, *calls: Callable[[Any], Any]) -> Any:
    """The container after calls, with what they returned."""
    results = [repr(call(container)) for call in calls]
    return [repr(container), [n for n, _ in container.named_parameters()], results]


SAME: list[Expression] = [
    *[changed(kind, change) for kind in ("Sequential", "ModuleList") for change in CHANGES],
    changed("Sequential", lambda m, c: c + [m.nn.ReLU()]),
    changed("Sequential", lambda m, c: c * 2),
    changed("Sequential", lambda m, c: 2 * c),
    changed("Sequential", lambda m, c: c.__imul__(2)),
    changed("Sequential", lambda m, c: c.insert(5, m.nn.ReLU())),
    changed("ModuleList", lambda m, c: c + [m.nn.ReLU()]),
    changed("ModuleList", lambda m, c: m.nn.ModuleList(m.nn.ReLU() for _ in range(3))),
    changed("ModuleList", lambda m, c: m.nn.ModuleList([*c, *[m.nn.Sequential(m.nn.ReLU())] * 2])),
    lambda m: m.nn.ModuleList(three(m))(1),
    lambda m: [m.nn.ModuleList(), m.nn.ModuleDict(), m.nn.ParameterList(), m.nn.ParameterDict()],
    lambda m: m.nn.Sequential(OrderedDict(a=m.nn.ReLU())).append(m.nn.Tanh()),
    lambda m: m.nn.Sequential(OrderedDict(a=m.nn.ReLU(), b=m.nn.Tanh()))[1:],
    lambda m: m.nn.Sequential(OrderedDict({"a": 1})),
    lambda m: after(parameters(m), lambda c: c[0], lambda c: c[2], lambda c: c[:2], len, lambda c: list(c)[1:]),
    lambda m: after(parameters(m), lambda c: c.append(m.ones(1)), lambda c: c.extend([m.ones(1)])),
    lambda m: after(parameters(m), lambda c: c.__setitem__(0, m.zeros(1)), lambda c: c.__iadd__([m.ones(1)])),
    lambda m: parameters(m)[3],
    lambda m: parameters(m).extend(m.ones(2)),
    lambda m: parameters(m)(),
    lambda m: m.nn.ParameterList([m.ones(2)]),
    lambda m: after(named(m), len, list, lambda c: list(c.items()), lambda c: list(c.keys()), lambda c: "a" in c),
    lambda m: after(named(m), lambda c: c.pop("a"), lambda c: c.popitem(), lambda c: c.setdefault("z", m.ones(1))),
    lambda m: after(named(m), lambda c: c.get("a"), lambda c: c.get("z"), lambda c: c.get("z", 1), lambda c: c.copy()),
    lambda m: after(named(m), lambda c: c.update({"c": m.ones(1)}), lambda c: c.update([("d", m.ones(1))])),
    lambda m: after(named(m), lambda c: c | m.nn.ParameterDict({"c": m.ones(1)}), lambda c: list(reversed(c))),
    lambda m: after(named(m), lambda c: c.__setitem__("t", 1), lambda c: c["t"], lambda c: c.clear(), len),
    lambda m: after(named(m), lambda c: c.fromkeys(["x", "y"], m.ones(1))),
    lambda m: named(m).update([1]),
    lambda m: named(m).update([(1, 2, 3)]),
    lambda m: named(m)(1),
    lambda m: after(modules(m), len, list, lambda c: list(c.items()), lambda c: list(c.values()), lambda c: "a" in c),
    lambda m: after(modules(m), lambda c: c["a"], lambda c: c.pop("b"), lambda c: c.update({"c": m.nn.Tanh()})),
    lambda m: after(modules(m), lambda c: c.update([["d", m.nn.Tanh()]]), lambda c: c.clear()),
    lambda m: after(modules(m), lambda c: c.__setitem__("b", m.nn.Tanh()), lambda c: c.__delitem__("a")),
    lambda m: modules(m)["z"],
    lambda m: modules(m).__setitem__("keys", m.nn.ReLU()),
    lambda m: modules(m).__setitem__("x", 1),
    lambda m: modules(m).update(1),
    lambda m: m.nn.Sequential(*three(m)[:1])(m.ones(1, 1)).shape,
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    def run(m: Any) -> Any:
        m.manual_seed(0)
        return expression(m)

    same(run)


SAME_CLASS: list[Expression] = [
    lambda m: m.nn.Sequential().extend(5),
    lambda m: m.nn.ModuleList().extend(5),
    lambda m: m.nn.Sequential() * 0,
    lambda m: named(m).__setitem__(1, 2),
    lambda m: named(m).update(1),
]


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)
