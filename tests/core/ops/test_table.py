"""The op table: three checks for every row, and a row for every public op.

The other files here have ROWS: tuples (op, call, inputs) or (op, call, inputs, notes). `call(m, *inputs)` is the op in
the library m, mpigrad or torch; inputs are arrays, which become tensors (floating ones require gradients), or anything
else. Notes: "kink" where the op has no derivative at these inputs, "name" where torch calls the node differently,
"constant" where torch refuses to differentiate and here the result is a constant, "contiguous" where torch fails with
other layouts, "once" where torch has no second derivative.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mpigrad

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda a: a.copy(),
    "transposed": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a.copy(),
    "float32": lambda a: a.astype(np.float32) if a.dtype == np.float64 else a,
}


def table(path: Path) -> list[tuple[Any, ...]]:
    """The rows of one test file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.__dict__.get("ROWS", [])


HERE = Path(__file__)
TABLES = {path.stem.removeprefix("test_"): table(path) for path in HERE.parent.glob("test_*.py") if path != HERE}
every_row = pytest.mark.parametrize(
    "row", [pytest.param(row, id=f"{name}-{row[0]}") for name, rows in sorted(TABLES.items()) for row in rows]
)


def tensors(m: Any, inputs: tuple[Any, ...], layout: str) -> list[Any]:
    """The inputs with tensors in the place of arrays."""
    made = [m.from_numpy(LAYOUTS[layout](v)) if isinstance(v, np.ndarray) else v for v in inputs]
    return [v.requires_grad_() if hasattr(v, "dtype") and v.dtype.is_floating_point else v for v in made]


def flat(value: Any) -> list[Any]:
    return [v for item in value for v in flat(item)] if isinstance(value, (tuple, list)) else [value]


def learned(values: list[Any]) -> list[Any]:
    return [v for v in values if getattr(v, "requires_grad", False)]


def random_like(m: Any, values: list[Any]) -> list[Any]:
    """The same random tensors in either library."""
    draw = np.random.default_rng(1).standard_normal
    return [m.from_numpy(np.asarray(draw(tuple(v.shape)), str(v.dtype).rpartition(".")[2])) for v in values]


def gradients(m: Any, outputs: list[Any], inputs: list[Any], weights: Any = None, **options: Any) -> list[Any]:
    weights = random_like(m, outputs) if weights is None else weights
    if not inputs:
        return []
    return list(m.autograd.grad(outputs, inputs, weights, retain_graph=True, allow_unused=True, **options))


def twice(m: Any, first: list[Any], inputs: list[Any], weights: list[Any]) -> list[Any]:
    """The gradients of gradients, towards the inputs and the weights that the first ones were taken with."""
    pairs = [(g, w) for g, w in zip(first, random_like(m, inputs), strict=True) if learned([g])]
    return gradients(m, [g for g, _ in pairs], inputs + weights, [w for _, w in pairs]) if pairs else []


def assert_same(got: list[Any], want: list[Any], what: str) -> None:
    """Equal dtypes, shapes and values; a missing gradient counts as zero."""
    for ours, theirs in zip(got, want, strict=True):
        if ours is None or theirs is None:
            assert all(v is None or np.allclose(v.numpy(force=True), 0, atol=1e-6) for v in (ours, theirs)), what
            continue
        a, b = ours.numpy(force=True), theirs.numpy(force=True)
        exact = {"rtol": 1e-6, "atol": 1e-9} if a.dtype != np.float32 else {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(a, b, **exact, strict=True, err_msg=what)


@every_row
def test_against_torch(row: tuple[Any, ...], torch: ModuleType) -> None:
    """Values, dtypes, shapes, node names, gradients and gradients of gradients in every layout."""
    _, call, inputs, *notes = row
    for layout in LAYOUTS:
        if "contiguous" in notes and layout in ("transposed", "strided"):
            continue
        ours, theirs = tensors(mpigrad, inputs, layout), tensors(torch, inputs, layout)
        got, want = flat(call(mpigrad, *ours)), flat(call(torch, *theirs))
        assert_same(got, want, f"{layout}: value")
        if "constant" in notes:
            continue
        assert [v.requires_grad for v in got] == [v.requires_grad for v in want]
        got, want, ours, theirs = learned(got), learned(want), learned(ours), learned(theirs)
        if not got:
            return
        if "name" not in notes:
            assert [v.grad_fn and v.grad_fn.name() for v in got] == [v.grad_fn and v.grad_fn.name() for v in want]
        both = random_like(mpigrad, got), random_like(torch, want)
        weights = [[weight.requires_grad_() for weight in one] for one in both]
        first = gradients(mpigrad, got, ours)
        expected = gradients(torch, want, theirs, weights[1], create_graph=True)
        assert_same(first, expected, f"{layout}: gradient")
        recorded = gradients(mpigrad, got, ours, weights[0], create_graph=True)
        assert_same(recorded, expected, f"{layout}: gradient under create_graph")
        if "once" in notes:
            continue
        second = twice(mpigrad, recorded, ours, weights[0])
        if not learned(expected):
            assert all(g is None or np.allclose(g.numpy(), 0, atol=1e-5) for g in second)
            continue
        expected = twice(torch, expected, theirs, weights[1])
        known = [v is None or not v.isnan().any() for v in expected]  # PyTorch's may be 0 / 0
        second, expected = ([v for v, k in zip(vs, known, strict=True) if k] for vs in (second, expected))
        assert_same(second, expected, f"{layout}: second derivative")


@every_row
def test_derivative(row: tuple[Any, ...]) -> None:
    """The vjp against the slope of the op along a random direction, in float64: two evaluations whatever the size."""
    _, call, inputs, *notes = row
    leaves = tensors(mpigrad, inputs, "plain")
    outputs = learned(flat(call(mpigrad, *leaves)))
    if not outputs or "kink" in notes:
        return
    weights = random_like(mpigrad, outputs)
    found = gradients(mpigrad, outputs, learned(leaves))
    draw, step = np.random.default_rng(2).standard_normal, 1e-6
    ways = [draw(v.shape) for v in learned(leaves)]

    def moved(sign: int) -> float:
        way = iter(ways)
        shifted = [
            mpigrad.from_numpy(np.asarray(v.detach().numpy() + sign * step * next(way)))
            if getattr(v, "requires_grad", False)
            else v
            for v in leaves
        ]
        shifted = [v.requires_grad_() if a is not v else v for v, a in zip(shifted, leaves, strict=True)]
        values = learned(flat(call(mpigrad, *shifted)))
        return sum(float((v * w).sum()) for v, w in zip(values, weights, strict=True))

    slope = (moved(1) - moved(-1)) / (2 * step)
    along = sum(float((g.numpy() * w).sum()) for g, w in zip(found, ways, strict=True) if g is not None)
    assert slope == pytest.approx(along, rel=1e-5, abs=1e-6)


@every_row
def test_arrays(row: tuple[Any, ...]) -> None:
    """Results and gradients are arrays of the inputs' module, never NumPy's scalar objects."""
    _, call, inputs, *_ = row
    leaves = tensors(mpigrad, inputs, "plain")
    outputs = flat(call(mpigrad, *leaves))
    found = gradients(mpigrad, learned(outputs), learned(leaves))
    mpigrad.autograd.backward(learned(outputs), random_like(mpigrad, learned(outputs)))
    everything = [*outputs, *found, *[v.grad for v in learned(leaves)]]
    assert all(type(v.array) is np.ndarray for v in everything if v is not None)


def public_ops() -> set[str]:
    """The names under which users find what core/ops defines; `add_` counts as add."""
    found = set()
    for space in (mpigrad, mpigrad.Tensor.__base__, mpigrad.nn.functional, mpigrad.linalg, mpigrad.special):
        for name in getattr(space, "__all__", vars(space)):
            value = inspect.unwrap(vars(space)[name]) if callable(vars(space)[name]) else None
            if inspect.isfunction(value) and value.__module__.startswith("mpigrad.core.ops.") and name[0] != "_":
                found.add(name.rstrip("_"))
    return found


def test_every_op_has_a_row() -> None:
    assert len(public_ops()) > 350
    assert public_ops() <= {row[0].rstrip("_") for rows in TABLES.values() for row in rows}
