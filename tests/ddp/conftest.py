"""How a batch is split among the ranks."""

from collections.abc import Callable
from typing import Any

import pytest

SPLITS: dict[str, Callable[[int], list[int]]] = {
    "even": lambda n: [4] * n,
    "uneven": lambda n: [1 + 3 * r for r in range(n)],
    "one has all": lambda n: [0] * (n - 1) + [6],
    "first and last empty": lambda n: [0, *[3] * max(n - 2, 1), 0][:n] if n > 1 else [3],
}


@pytest.fixture(params=SPLITS)
def counts(request: pytest.FixtureRequest, world: Any) -> list[int]:
    """Samples per rank."""
    return SPLITS[request.param](world.size)
