"""Multi-head attention as a function: the op table. All that its module offers is tested there."""

from typing import Any

import numpy as np

normal = np.random.default_rng(0).standard_normal
WEIGHTS = (normal((6, 2)), normal(6), normal((2, 2)), normal(2))


def attended(**options: Any) -> Any:
    """With two heads of width 1; the last inputs are the static keys and values, if any."""

    def call(m: Any, q: Any, k: Any, w: Any, b: Any, out: Any, c: Any, *static: Any) -> Any:
        names = dict(zip(("static_k", "static_v"), static, strict=False))
        arguments = (q, k, k, 2, 2, w, b, None, None, False, 0.0, out, c)
        result = m.nn.functional.multi_head_attention_forward(*arguments, **names, **options)
        return [v for v in result if v is not None]

    return call


BATCH, SINGLE = (normal((2, 1, 2)), normal((3, 1, 2)), *WEIGHTS), (normal((2, 2)), normal((3, 2)), *WEIGHTS)
STATIC = (normal((2, 3, 1)), normal((2, 3, 1)))

ROWS: list[tuple[Any, ...]] = [
    ("multi_head_attention_forward", attended(), BATCH, "name"),
    ("multi_head_attention_forward", attended(average_attn_weights=False), SINGLE, "name"),
    ("multi_head_attention_forward", attended(), (*BATCH, *STATIC), "name"),
]
