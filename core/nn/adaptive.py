"""The softmax over very many classes, of which few are frequent."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..dtypes import dtype as Dtype
from ..ops.join import cat
from ..ops.pointwise import where
from . import functional
from .container import ModuleList, Sequential
from .linear import Linear
from .module import Module

__all__ = ["AdaptiveLogSoftmaxWithLoss"]

_ASMoutput = namedtuple("_ASMoutput", ["output", "loss"])  # as it prints


class AdaptiveLogSoftmaxWithLoss(Module):
    """The log-probability of each target class, and the mean loss, computing little for rare classes.

    input (N, in_features), target (N,); or (in_features,) and (). Classes are numbered by falling frequency. The head
    decides between those below cutoffs[0] and one cluster for each further interval of cutoffs; a cluster between its
    classes, from in_features // div_value**(i + 1) features. Source: Grave et al., 2017,
    https://arxiv.org/abs/1609.04309.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__()
        ends = list(cutoffs)
        if not ends:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if ends != sorted({*ends}) or ends[0] <= 0 or ends[-1] >= n_classes or any(int(c) != c for c in ends):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each "
                "value is between 1 and n_classes-1"
            )
        self.in_features, self.n_classes, self.div_value, self.head_bias = in_features, n_classes, div_value, head_bias
        self.cutoffs = [*ends, n_classes]
        self.shortlist_size, self.n_clusters = ends[0], len(ends)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = ModuleList()
        for i, (first, end) in enumerate(pairwise(self.cutoffs)):
            width = int(in_features // div_value ** (i + 1))
            inward = Linear(in_features, width, False, device, dtype)
            self.tail.append(Sequential(inward, Linear(width, end - first, False, device, dtype)))

    def reset_parameters(self) -> None:
        """Draw the start values anew."""
        for layer in self.modules():
            if isinstance(layer, Linear):
                layer.reset_parameters()

    def forward(self, input: Any, target: Any) -> Any:
        if target.ndim not in (0, 1):
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        if input.ndim != target.ndim + 1:
            raise RuntimeError(
                f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors, but found inputs with size "
                f"{input.shape}"
            )
        if input.shape[:-1] != target.shape:
            raise RuntimeError("Input and target should have the same size in the batch dimension.")
        rows, classes = (input, target) if target.ndim else (input.unsqueeze(0), target.unsqueeze(0))
        if ((classes < 0) | (classes >= self.n_classes)).any():
            raise RuntimeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range "
                f"[{classes.min().item()}, {classes.max().item()}] were found. "
            )
        cluster = sum((classes >= end).long() for end in self.cutoffs)  # 0: in the head
        column = where(cluster == 0, classes, cluster + (self.shortlist_size - 1))
        output = functional.log_softmax(self.head(rows), 1).gather(1, column.unsqueeze(1)).squeeze(1)
        for i, (first, layers) in enumerate(zip(self.cutoffs, self.tail, strict=False), 1):
            found = (cluster == i).nonzero().squeeze(1)
            if found.numel():
                within = functional.log_softmax(layers(rows[found]), 1)
                place = (classes[found] - first).unsqueeze(1)
                output = output.index_add(0, found, within.gather(1, place).squeeze(1))
        loss = (-output).mean()
        return _ASMoutput(output if target.ndim else output.squeeze(0), loss)

    def log_prob(self, input: Any) -> Any:
        """The log-probabilities (N, n_classes) of all classes."""
        head = functional.log_softmax(self.head(input), 1)
        shares = head[:, self.shortlist_size :].unbind(1)
        tails = [
            functional.log_softmax(layers(input), 1) + share.unsqueeze(1)
            for layers, share in zip(self.tail, shares, strict=True)
        ]
        return cat([head[:, : self.shortlist_size], *tails], 1)

    def predict(self, input: Any) -> Any:
        """The most probable class (N,) of each sample."""
        return self.log_prob(input).argmax(1)
