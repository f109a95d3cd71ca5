"""Recurrent layers: the op table, by way of the modules."""

import warnings
from typing import Any

import numpy as np

normal = np.random.default_rng(0).standard_normal


def run(module: Any, x: Any, *states: Any) -> Any:
    """What the module gives, from these states if there are any."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM with projections")  # torch's, that it takes its slow way
        return module(x, states[0] if len(states) == 1 else states) if states else module(x)


def layer(kind: str, **options: Any) -> Any:
    """The results of a module with the same weights each time; the last inputs are the states, if any."""

    def call(m: Any, x: Any, *states: Any) -> Any:
        m.manual_seed(0)
        result = run(getattr(m.nn, kind)(3, 2, **options).to(x.dtype), x, *states)
        return [v for part in result for v in (part if isinstance(part, tuple) else [part])]

    return call


def packed(kind: str, **options: Any) -> Any:
    """Sequences of different lengths, which are not sorted by them."""

    def call(m: Any, x: Any, *states: Any) -> Any:
        m.manual_seed(0)
        rnn = m.nn.utils.rnn
        sequence = rnn.pack_padded_sequence(x, m.tensor([2, 4, 1]), enforce_sorted=False)
        output, last = run(getattr(m.nn, kind)(3, 2, **options).to(x.dtype), sequence, *states)
        last = list(last) if isinstance(last, tuple) else [last]
        return [output.data, rnn.pad_packed_sequence(output)[0], *last]

    return call


BOTH: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
KINDS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("RNN", {}, [2]),
    ("RNN", {"nonlinearity": "relu", "bias": False}, [2]),
    ("GRU", {}, [2]),
    ("GRU", {"bias": False}, [2]),
    ("LSTM", {}, [2, 2]),
    ("LSTM", {"bias": False, "proj_size": 1}, [1, 2]),
]
ROWS: list[tuple[Any, ...]] = [
    row
    for kind, options, widths in KINDS
    for row in (
        ("recurrent", layer(kind, **options), (normal((4, 3, 3)),), "name"),
        ("recurrent", layer(kind, **options), (normal((4, 3, 3)), *[normal((1, 3, n)) for n in widths]), "name"),
        ("recurrent", layer(kind, batch_first=True, **options, **BOTH), (normal((3, 2, 3)),), "name"),
        ("recurrent", packed(kind, **options), (normal((4, 3, 3)),), "name"),
        (
            "recurrent",
            packed(kind, **options, **BOTH),
            (normal((4, 3, 3)), *[normal((4, 3, n)) for n in widths]),
            "name",
        ),
    )
]
