"""Shape ops: the op table, which of them are views, and errors."""

from typing import Any

import numpy as np

normal = np.random.default_rng(0).standard_normal
A, B = normal((2, 3, 4)), normal((2, 3, 4))


def method(name: str, *arguments: Any) -> Any:
    return lambda m, a: getattr(a, name)(*arguments)


ROWS: list[tuple[Any, ...]] = [
    *[("reshape", method("reshape", *s), (A,)) for s in ((6, 4), ((4, -1),), (-1,), (2, 3, 4), ([2, 12],), (1, 24, 1))],
    *[("view", lambda m, a, s=s: a.contiguous().view(*s), (A,), "name") for s in ((6, 4), ((4, -1),), (-1,))],
    *[("flatten", method("flatten", *s), (A,), "name") for s in ((), (1,), (0, 1), (-2, -1), (1, 1))],
    *[("flatten", method("flatten"), (normal(s),)) for s in ((), (3,), (0, 2))],
    *[("permute", method("permute", *s), (A,)) for s in ((2, 0, 1), ((1, 0, 2),), (-1, 0, 1))],
    *[("transpose", method("transpose", *s), (A,)) for s in ((0, 1), (-1, 0), (1, 1))],
    *[("t", method("t"), (normal(s),)) for s in ((), (3,), (2, 3))],
    ("T", lambda m, a: a.T, (normal((2, 3)),)),
    ("mT", lambda m, a: a.mT, (A,)),
    *[("squeeze", method("squeeze", *s), (normal((1, 3, 1, 2)),)) for s in ((), (0,), (1,), (-2,))],
    ("squeeze", method("squeeze"), (normal(()),)),
    ("squeeze", method("squeeze", 0), (normal(()),)),
    ("squeeze", method("squeeze", (0, 1, 2)), (normal((1, 3, 1, 2)),)),
    *[("unsqueeze", method("unsqueeze", d), (normal((2, 3)),)) for d in (0, 1, 2, -1, -3)],
    ("unsqueeze", method("unsqueeze", 0), (normal(()),)),
    *[("expand", method("expand", *s), (normal((3, 1)),)) for s in ((3, 4), (-1, 4), (2, 3, 4), ((2, -1, -1),))],
    ("expand", method("expand", 2, 2), (normal(()),)),
    ("expand", method("expand", 3, 0), (normal((3, 1)),)),
    ("expand_as", lambda m, a, b: a.expand_as(b), (normal((3, 1)), normal((3, 2)))),
    ("view_as", lambda m, a, b: a.contiguous().view_as(b), (normal((2, 3)), normal((3, 2))), "name"),
    ("contiguous", lambda m, a: a.transpose(0, 1).contiguous(), (A,), "name"),
    ("clone", method("clone"), (A,)),
    ("clone", lambda m, a: a.transpose(0, 1).clone(), (A,)),
    *[("cat", lambda m, a, b, d=d: m.cat([a, b], d), (A, B)) for d in (0, 1, -1)],
    ("cat", lambda m, a, b: m.cat((a, b, a)), (normal((2, 3)), normal((1, 3)))),
    ("cat", lambda m, a, b: m.cat([a, b], dim=-1), (normal((2, 0)), normal((2, 3)))),
    ("cat", lambda m, a, b: m.cat([a, b]), (normal(0), normal((2, 3)))),
    ("cat", lambda m, a, b: m.cat([a, b]), (np.arange(3), normal(2))),
    ("cat", lambda m, a, b: m.cat([a, b]), (np.float32([1, 2]), normal(2))),
    *[("stack", lambda m, a, b, d=d: m.stack([a, b], d), (A, B)) for d in (0, 1, -1, 3)],
    ("stack", lambda m, a, b: m.stack((a, b)), (normal(()), normal(()))),
    ("stack", lambda m, a, b: m.stack([a, b]), (np.arange(2), normal(2))),
]  # fmt: skip
