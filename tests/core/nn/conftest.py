"""One module in both libraries."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mpigrad


def tensors(value: Any) -> list[Any]:
    """All tensors of a nested result."""
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in tensors(item)]
    return [value] if hasattr(value, "detach") else []


def assert_close(got: Any, want: Any) -> None:
    """Equal to float32's rounding, which in sums is relative to the largest terms, not to what is left of them."""
    a, b = got.detach().numpy(), want.detach().numpy()
    largest = np.abs(b).max(initial=1, where=np.isfinite(b)) if b.dtype.kind == "f" else 1
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * largest, strict=True)


def run(m: Any, build: Callable[[Any], Any], inputs: tuple[Any, ...], call: Callable[..., Any]) -> tuple[Any, ...]:
    """The module, the tensors it gives and the leaves' gradients of a weighted sum of them."""
    m.manual_seed(0)
    module = build(m)
    made = [m.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for v in inputs]
    made = [v.requires_grad_() if hasattr(v, "dtype") and v.dtype.is_floating_point else v for v in made]
    results = tensors(call(module, *made))
    learned = [v for v in results if v.requires_grad]
    draw = np.random.default_rng(1).standard_normal
    leaves = [v for v in made if getattr(v, "requires_grad", False)]
    if learned:
        weights = [m.from_numpy(np.asarray(draw(tuple(v.shape)), str(v.dtype).rpartition(".")[2])) for v in learned]
        m.autograd.backward(learned, weights)
    named = {"state": module.state_dict(), "gradients": {k: p.grad for k, p in module.named_parameters()}}
    return module, results, [v.grad for v in leaves], named, m.rand(1)


@pytest.fixture
def alike(torch: ModuleType) -> Callable[..., None]:
    """Assert that a module prints, starts, computes, learns and remembers as torch's; then in evaluation mode too.

    build(m) makes it, inputs are arrays (floating ones require gradients) or anything else.
    """

    def check(build: Callable[[Any], Any], *inputs: Any, call: Callable[..., Any] = lambda f, *v: f(*v)) -> None:
        def evaluated(m: Any) -> Any:
            return build(m).eval()

        for make in (build, evaluated):
            ours, theirs = run(mpigrad, make, inputs, call), run(torch, make, inputs, call)
            assert repr(ours[0]) == repr(theirs[0])
            assert len(ours[1]) == len(theirs[1])
            for got, want in zip([*ours[1], *ours[2], ours[4]], [*theirs[1], *theirs[2], theirs[4]], strict=True):
                assert (got is None) == (want is None)
                if want is not None:
                    assert_close(got, want)
            for kind in ("state", "gradients"):
                got, want = ours[3][kind], theirs[3][kind]
                assert list(got) == list(want)
                for name, value in want.items():
                    if value is None or got[name] is None:
                        assert all(v is None or not v.numpy().any() for v in (value, got[name])), name
                    else:
                        assert_close(got[name], value)

    return check
