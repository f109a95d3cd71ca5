"""The loss of connectionist temporal classification.

Graves, Fernández, Gomez and Schmidhuber, "Connectionist temporal classification: labelling unsegmented sequence data
with recurrent neural networks", 2006. A path through an extended target, blanks around all labels, gives each step a
label; alpha[t, s] is the log-probability of all paths that are at place s at step t, over the steps up to t, and beta
that over the steps from t on.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..autograd import Variable, record, wrap
from ..backend import Array, array_module
from .pointwise import where
from .reduction import reduced

__all__ = ["ctc_loss"]


def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """Minus the log-probability of all ways to spread each target over the steps of its input.

    log_probs (T, N, C) or (T, C): log-probabilities of the labels at each step; targets (N, S), or all of them one
    after the other; lengths: N ints each, as tensors or sequences. reduction "mean" divides each loss by the length of
    its target first. A target that does not fit has an infinite loss; zero_infinity: zero, and no gradient. The
    gradient is PyTorch's: right where log_probs come from log_softmax, and not differentiable itself. RuntimeError for
    lengths of another number than N, or beyond the input or the target, and for a blank that is no label.
    """
    batched = log_probs.array.ndim == 3
    probabilities = log_probs if batched else log_probs.unsqueeze(1)
    values = probabilities.array
    steps, count, labels = values.shape
    inputs, lengths = _lengths("input_lengths", input_lengths, count), _lengths("target_lengths", target_lengths, count)
    if not 0 <= blank < labels:
        raise RuntimeError("blank must be in label range")
    if inputs.max(initial=0) > steps:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {steps}, but got value {inputs.max()} (while checking "
            "arguments for ctc_loss_allocate_outputs)"
        )
    paths = _Paths(values, _padded(targets.array, lengths), inputs, lengths, blank)
    losses = record("CtcLossBackward0", paths.losses, (probabilities, lambda g: _gradient(g, probabilities, paths)))
    if zero_infinity:
        paths.endless = paths.losses == np.inf
        losses = where(wrap(paths.endless), 0.0, losses)
    if reduction == "mean":
        return (losses / wrap(paths.xp.maximum(lengths, 1).astype(values.dtype))).mean()
    return reduced(losses, reduction) if batched or reduction == "sum" else losses[0]


def _gradient(g: Any, probabilities: Any, paths: _Paths) -> Any:
    gradients = paths.gradients
    if not isinstance(g, Variable):
        return g[:, None] * gradients

    def refuse(_: Any) -> Any:
        raise RuntimeError("derivative for aten::_ctc_loss_backward is not implemented")

    towards_g = lambda gg: (gg * (gradients if not isinstance(gg, Variable) else wrap(gradients))).sum((0, 2))
    return record("CtcLossBackwardBackward0", g.array[:, None] * gradients, (g, towards_g), (probabilities, refuse))


def _lengths(name: str, lengths: Any, count: int) -> Array:
    found = lengths.array if isinstance(lengths, Variable) else np.asarray(lengths)
    if found.dtype.kind not in "iu":
        raise RuntimeError(f"{name} must be integral")
    if found.size != count:
        raise RuntimeError(f"{name} must be of size batch_size")
    if (found < 0).any():
        raise RuntimeError(f"{name} must not be negative")
    return found.reshape(-1)


def _padded(targets: Array, lengths: Array) -> Array:
    """Targets as rows of the length of the longest, filled up with zeros."""
    xp, longest = array_module(targets), int(lengths.max(initial=0))
    used = xp.arange(longest) < lengths[:, None]
    if targets.ndim == 2:
        if targets.shape[1] < longest or targets.shape[0] != len(lengths):
            raise RuntimeError(
                f"Expected tensor to have size at least {longest} at dimension 1, but got size {list(targets.shape)}"
            )
        return xp.where(used, targets[:, :longest], 0)
    if targets.ndim != 1 or targets.size != lengths.sum():
        raise RuntimeError(
            f"ctc_loss: expected targets of shape [{len(lengths)}, S] or [{lengths.sum()}], found {list(targets.shape)}"
        )
    rows = xp.zeros(used.shape, targets.dtype)
    rows[used] = targets
    return rows


class _Paths:
    """The sums over all paths: (T, N, 2 S + 1) numbers, of which those beyond the end of a target are not used."""

    def __init__(self, values: Array, targets: Array, inputs: Array, lengths: Array, blank: int) -> None:
        self.xp = xp = array_module(values)
        self.values, self.inputs = values, inputs
        self.endless = xp.zeros(len(inputs), bool)  # losses that are infinite, and have no gradient
        count, longest = targets.shape
        if targets.size and (targets.min() < 0 or targets.max() >= values.shape[2]):
            raise RuntimeError(
                f"ctc_loss: expected targets from 0 to {values.shape[2] - 1}, found {targets.min()} to {targets.max()}"
            )
        self.labels = xp.full((count, 2 * longest + 1), blank, np.int64)
        self.labels[:, 1::2] = targets
        self.jumps = xp.zeros(self.labels.shape, bool)  # from two places before: over a blank between other labels
        self.jumps[:, 3::2] = targets[:, 1:] != targets[:, :-1]
        self.emitted = xp.take_along_axis(values, self.labels[None], 2)
        place = xp.arange(2 * longest + 1)
        self.last = (place == 2 * lengths[:, None]) | (place == 2 * lengths[:, None] - 1)
        self.alpha = xp.full(self.emitted.shape, -np.inf, values.dtype)
        for step in range(len(values)):
            if step:
                reached = self._moved(self.alpha[step - 1])
            else:
                reached = xp.where(place < 2, values.dtype.type(0), values.dtype.type(-np.inf))
            self.alpha[step] = reached + self.emitted[step]
        ends = xp.full(self.labels.shape, -np.inf, values.dtype)
        some = inputs > 0
        ends[some] = self.alpha[inputs[some] - 1, xp.nonzero(some)[0]]
        ends[~some & (lengths == 0), 0] = 0  # nothing comes of nothing
        self.losses = -xp.logaddexp.reduce(xp.where(self.last, ends, -np.inf), 1).astype(values.dtype)

    def _moved(self, before: Array) -> Array:
        """The paths that stay at their place, come from the one before, or jump."""
        found = before.copy()
        self.xp.logaddexp(found[:, 1:], before[:, :-1], out=found[:, 1:])
        jumped = self.xp.where(self.jumps[:, 2:], before[:, :-2], -np.inf)
        self.xp.logaddexp(found[:, 2:], jumped, out=found[:, 2:])
        return found

    def _moved_back(self, after: Array) -> Array:
        found = after.copy()
        self.xp.logaddexp(found[:, :-1], after[:, 1:], out=found[:, :-1])
        jumped = self.xp.where(self.jumps[:, 2:], after[:, 2:], -np.inf)
        self.xp.logaddexp(found[:, :-2], jumped, out=found[:, :-2])
        return found

    @functools.cached_property
    def gradients(self) -> Array:
        """Of each loss with respect to what log_softmax was given: probabilities, less how often labels are taken."""
        xp, found = self.xp, self.xp.exp(self.values)
        beta = xp.full(self.labels.shape, -np.inf, self.values.dtype)
        found[:, self.losses == np.inf] = np.nan
        rows = xp.arange(len(self.labels))[:, None]
        for step in reversed(range(len(self.values))):
            begins = self.last & (self.inputs == step + 1)[:, None]
            beta = xp.where(begins, self.values.dtype.type(0), self._moved_back(beta)) + self.emitted[step]
            through = self.alpha[step] + beta
            taken = xp.exp(through + self.losses[:, None] - xp.where(through == -np.inf, 0, self.emitted[step]))
            xp.subtract.at(found[step], (rows, self.labels), taken)
            found[step, (self.inputs <= step) | self.endless] = 0
        return found
