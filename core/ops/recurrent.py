"""One layer of a recurrent network over a whole sequence, in one op fused by hand.

Rows lie as in a packed sequence: the rows of step 0, of step 1, ..., and step t has those of the first sizes[t]
sequences. A step reads and writes the states of its sequences only, so the same loop runs forwards, where sequences
end, and backwards, where they begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import Array, array_module
from .fused import record_fused
from .join import cat, split_with_sizes
from .linalg import linear

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # LSTM: in, forget, cell, out; GRU: reset, update, new


def recurrent(
    mode: str,
    gates: Any,
    hidden: Any,
    cell: Any,
    weight: Any,
    bias: Any,
    projection: Any,
    sizes: Sequence[int],
    reverse: bool = False,
) -> tuple[Any, Any, Any]:
    """The outputs (rows, P) and the last hidden (N, P) and cell state (N, H), which is None but for "LSTM".

    gates (rows, gates * H): the input's part of all gates. hidden (N, P) and cell (N, H): the states to start from;
    weight (gates * H, P) and bias (gates * H) or None: the hidden state's part; projection (P, H) or None (P = H).
    Sources: Hochreiter and Schmidhuber, 1997; Cho et al., 2014, https://arxiv.org/abs/1406.1078; Sak et al., 2014,
    https://arxiv.org/abs/1402.1128 (projection).
    """
    ends = np.cumsum(sizes).tolist()
    steps = [(slice(end - size, end), size) for end, size in zip(ends, sizes, strict=True)]
    steps = steps[::-1] if reverse else steps
    x, w = gates.array, weight.array
    rows, (batch, out), width = len(x), hidden.array.shape, w.shape[0] // GATES[mode]
    lengths = [rows * out, batch * out] + ([batch * width] if mode == "LSTM" else [])
    value = array_module(x).empty(sum(lengths), x.dtype)
    y, h, *rest = (part.reshape(-1, n) for part, n in zip(_parts(value, lengths), (out, out, width), strict=False))
    h[...] = hidden.array
    c = rest[0] if rest else None
    if c is not None:
        c[...] = cell.array
    saved = _forward(mode, x, w, bias, projection, steps, y, h, c)

    def vjp(
        g: Array, gates: Array, hidden: Array, cell: Any, weight: Array, bias: Any, projection: Any, *saved: Any
    ) -> Any:
        return _backward(mode, _parts(g, lengths), weight, projection, steps, *saved)

    def composition(gates: Any, hidden: Any, cell: Any, weight: Any, bias: Any, projection: Any) -> Any:
        outputs: dict[int, Any] = {}
        for at, size in steps:
            ends = None if cell is None else cell[:size]
            h, c = _step(mode, gates[at], linear(hidden[:size], weight, bias), hidden[:size], ends, projection)
            outputs[at.start] = h
            hidden = h if size == batch else cat([h, hidden[size:]])
            cell = c if size == batch or c is None else cat([c, cell[size:]])
        last = [hidden] if cell is None else [hidden, cell]
        return cat([v.reshape(-1) for v in [*(outputs[start] for start in sorted(outputs)), *last]])

    inputs = (gates, hidden, cell, weight, bias, projection)
    packed = record_fused(f"{mode.title().replace('_', '')}Backward0", value, inputs, vjp, composition, *saved)
    results = split_with_sizes(packed, lengths)
    shaped = [v.reshape(-1, n) for v, n in zip(results, (out, out, width), strict=False)]
    return shaped[0], shaped[1], shaped[2] if len(shaped) > 2 else None


def _parts(flat: Array, lengths: list[int]) -> list[Array]:
    ends = np.cumsum(lengths).tolist()
    return [flat[end - n : end] for end, n in zip(ends, lengths, strict=True)]


def _forward(mode: str, x: Array, w: Array, bias: Any, projection: Any, steps: Any, y: Array, h: Array, c: Any) -> Any:
    """Fill y, h and c; what the gradients need: the gates, the states before each step and what they passed through."""
    xp, rows, width = array_module(x), len(x), w.shape[0] // GATES[mode]
    # sigmoid(v) = tanh(v / 2) / 2 + 1/2: one tanh serves all gates, and the halving is done in the weights
    half = xp.ones(w.shape[0], x.dtype)
    if mode in ("LSTM", "GRU"):
        half[: 2 * width] = half[3 * width :] = 0.5
    offset = 1 - half
    recurrent_weight = xp.ascontiguousarray(w.T * half)
    a = x * half
    b = None if bias is None else bias.array * half
    if b is not None and mode == "GRU":
        a[:, : 2 * width] += b[: 2 * width]
    elif b is not None:
        a += b
    before = xp.empty((rows, h.shape[1]), x.dtype)
    cells, passed = (xp.empty((rows if mode in ("LSTM", "GRU") else 0, width), x.dtype) for _ in range(2))
    full = xp.empty((rows, width), x.dtype) if projection is not None else y
    shrink = None if projection is None else projection.array.T
    for at, size in steps:
        state, z = h[:size], a[at]
        before[at] = state
        hidden = state @ recurrent_weight
        if mode == "LSTM":
            z += hidden
            np.tanh(z, out=z)
            z *= half
            z += offset
            gate = z.reshape(size, 4, width)
            cell = c[:size]
            cells[at] = cell
            cell *= gate[:, 1]
            cell += gate[:, 0] * gate[:, 2]
            np.tanh(cell, out=passed[at])
            np.multiply(gate[:, 3], passed[at], out=full[at])
        elif mode == "GRU":
            opened, new, inner = z[:, : 2 * width], z[:, 2 * width :], hidden[:, 2 * width :]
            opened += hidden[:, : 2 * width]
            np.tanh(opened, out=opened)
            opened *= 0.5
            opened += 0.5
            if b is not None:
                inner += b[2 * width :]
            passed[at] = inner
            new += z[:, :width] * inner
            np.tanh(new, out=new)
            np.subtract(state, new, out=cells[at])
            np.multiply(z[:, width : 2 * width], cells[at], out=full[at])
            full[at] += new
        else:
            z += hidden
            np.tanh(z, out=z) if mode == "RNN_TANH" else np.maximum(z, 0, out=z)
            full[at] = z
        if shrink is not None:
            np.matmul(full[at], shrink, out=y[at])
        state[...] = y[at]
    return a, before, cells, passed, full


def _backward(
    mode: str,
    g: list[Array],
    weight: Array,
    projection: Any,
    steps: Any,
    a: Array,
    before: Array,
    cells: Array,
    passed: Array,
    full: Array,
) -> Any:
    """The gradients towards gates, hidden, cell, weight, bias and projection.

    What multiplies the incoming gradient is computed for all steps at once, in the place of the result.
    """
    xp, (rows, width) = array_module(a), full.shape
    towards_y, towards_h = g[0].reshape(rows, -1), g[1].reshape(-1, before.shape[1]).copy()
    towards_c = g[2].reshape(-1, width).copy() if mode == "LSTM" else None
    gate = a.reshape(rows, -1, width)
    inner = None
    if mode == "LSTM":
        slope = gate * (1 - gate)
        slope[:, 2] = 1 - gate[:, 2] * gate[:, 2]
        slope[:, 0] *= gate[:, 2]
        slope[:, 1] *= cells
        slope[:, 2] *= gate[:, 0]
        slope[:, 3] *= passed
        into_cell = gate[:, 3] * (1 - passed * passed)
    elif mode == "GRU":
        slope = gate * (1 - gate)
        new = (1 - gate[:, 1]) * (1 - gate[:, 2] * gate[:, 2])
        slope[:, 0] *= new * passed
        slope[:, 1] *= cells
        slope[:, 2] = new
        inner = slope.copy()
        inner[:, 2] *= gate[:, 0]
    else:
        slope = 1 - gate * gate if mode == "RNN_TANH" else (gate > 0).astype(gate.dtype)
    wide = towards_y.copy() if projection is not None else None
    for at, size in reversed(steps):
        d = towards_h[:size] + towards_y[at]
        if wide is not None:
            wide[at] = d
            d = d @ projection
        if towards_c is not None:
            cell = towards_c[:size]
            cell += d * into_cell[at]
            slope[at, :3] *= cell[:, None]
            slope[at, 3] *= d
            cell *= gate[at, 1]
        else:
            slope[at] *= d[:, None]
        step = slope[at]
        if inner is not None:
            step = inner[at]
            step *= d[:, None]
        np.matmul(step.reshape(size, -1), weight, out=towards_h[:size])
        if inner is not None:
            towards_h[:size] += d * gate[at, 1]
    by_hidden = (slope if inner is None else inner).reshape(rows, -1)
    yield 0, slope.reshape(rows, -1)
    yield 1, towards_h
    yield 2, towards_c
    yield 3, by_hidden.T @ before
    yield 4, xp.ones(rows, a.dtype) @ by_hidden
    if wide is not None:
        yield 5, wide.T @ full


def _step(mode: str, x: Any, hidden: Any, before: Any, cell: Any, projection: Any) -> tuple[Any, Any]:
    """The next hidden and cell state, made of simple ops; x and hidden are the two parts of the gates."""
    if mode == "LSTM":
        enter, keep, new, leave = (x + hidden).chunk(4, -1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
        after = leave.sigmoid() * cell.tanh()
        return after if projection is None else linear(after, projection), cell
    if mode == "GRU":
        (reset, update, new), (reset_h, update_h, new_h) = x.chunk(3, -1), hidden.chunk(3, -1)
        update = (update + update_h).sigmoid()
        new = (new + (reset + reset_h).sigmoid() * new_h).tanh()
        return new + update * (before - new), None
    return (x + hidden).tanh() if mode == "RNN_TANH" else (x + hidden).relu(), None
