"""Padding as modules, against torch."""

from typing import Any

import pytest

NAMES = [f"{mode}Pad{n}d" for mode in ("Constant", "Zero", "Reflection", "Replication", "Circular") for n in (1, 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_as_in_torch(name: str, same: Any) -> None:
    n = int(name[-2])
    value = (2.5,) if name.startswith("Constant") else ()

    def everything(m: Any) -> Any:
        modules = [getattr(m.nn, name)(padding, *value) for padding in (1, (2, 1) * n)]
        x = m.arange(3.0 ** (n + 1)).reshape(1, *[3] * (n + 1))
        return [(repr(module), module(x)) for module in modules]

    same(everything)
