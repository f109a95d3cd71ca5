"""Sums of products over named or paired dimensions (einsum and its kin), as transposes and matrix products.

Everything here is composed of ops that record themselves, so gradients of any order need no word.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd import record
from ..backend import is_array
from ..dtypes import of
from .elementwise import mul
from .index import getitem
from .linalg import matmul, mm
from .pointwise import cannot_broadcast, sum_to
from .reduce import sum
from .shape import normalize_dim, permute, reshape

# fmt: off
__all__ = [
    "chain_matmul", "cross", "einsum", "inner", "kron", "tensordot",
]
# fmt: on

Labels = tuple[Hashable, ...]


def einsum(*args: Any) -> Any:
    """The sum of products over the labels that the output lacks: `einsum("bij,bjk->bik", a, b)`.

    The equation may hold an ellipsis, repeat a label of one operand (its diagonal), and leave out the output, which
    then has the labels that occur once, sorted. Or in pairs: `einsum(a, [0, 1], b, [1, 2], [0, 2])`. More than two
    operands are joined in the order that makes the smallest intermediate results first.
    """
    tensors, inputs, output = _parsed(args)
    sizes: dict[Hashable, int] = {}
    for i, (tensor, labels) in enumerate(zip(tensors, inputs, strict=True)):
        for label, n in zip(labels, tensor.array.shape, strict=True):
            if sizes.setdefault(label, n) == 1:
                sizes[label] = n
            elif n not in (1, sizes[label]):
                raise RuntimeError(
                    f"einsum(): subscript {label} has size {n} for operand {i} which does not broadcast with "
                    f"previously seen size {sizes[label]}"
                )
    parts = [_prepared(tensor, labels, sizes) for tensor, labels in zip(tensors, inputs, strict=True)]
    while len(parts) > 1:
        i, j = _next_pair([labels for _, labels in parts], output, sizes)
        second, first = parts.pop(j), parts.pop(i)
        needed = {*output, *(label for _, labels in parts for label in labels)}
        parts.insert(0, _joined(*first, *second, needed, sizes))
    tensor, labels = _summed(*parts[0], set(output))
    return _ordered(tensor, [labels.index(label) for label in output])


def _parsed(args: tuple[Any, ...]) -> tuple[list[Any], list[Labels], Labels]:
    """The operands, the labels of each, and those of the output; `...` is spelled out as one label per dimension."""
    if not args:
        raise ValueError("einsum(): expected the equation string and its operands, or operands and their subscripts")
    if isinstance(args[0], str):
        equation, *rest = args
        tensors = list(rest[0]) if len(rest) == 1 and isinstance(rest[0], (list, tuple)) else rest
        left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
        terms: list[Sequence[Any]] = [*left.split(",")]
        result: Sequence[Any] | None = right if arrow else None
        wrong = next((c for c in left.replace(",", "") + right if not (c.isascii() and c.isalpha()) and c != "."), None)
        if wrong is not None:
            raise RuntimeError(
                f"einsum(): invalid subscript given at index {equation.find(wrong)} in the equation string, "
                "subscripts must be in [a-zA-Z]"
            )
    else:
        tensors, terms = list(args[: len(args) // 2 * 2 : 2]), list(args[1::2])
        result = args[-1] if len(args) % 2 else None
        terms = [["." if label is Ellipsis else label for label in term] for term in terms]
        result = result if result is None else ["." if label is Ellipsis else label for label in result]
    if len(terms) != len(tensors):
        amount = "fewer" if len(tensors) < len(terms) else "more"
        raise RuntimeError(f"einsum(): {amount} operands were provided than specified in the equation")
    inputs, dots = [], 0
    for i, (tensor, term) in enumerate(zip(tensors, terms, strict=True)):
        hidden = tensor.array.ndim - len(term) + ("." in term)
        if hidden < 0 or (hidden and "." not in term):
            raise RuntimeError(
                f"einsum(): the number of subscripts in the equation ({len(term) - ('.' in term)}) does not match the "
                f"number of dimensions ({tensor.array.ndim}) for operand {i}"
                + " and no ellipsis was given"
                * (hidden > 0)
            )
        inputs.append(_spelled(term, hidden))
        dots = max(dots, hidden)
    if result is None:
        counts = Counter(label for term in terms for label in term if label != ".")
        return tensors, inputs, (*_spelled(".", dots), *sorted(k for k, n in counts.items() if n == 1))
    output = _spelled(result, dots)
    known = {label for labels in inputs for label in labels}
    for label, n in Counter(output).items():
        if n > 1:
            raise RuntimeError(f"einsum(): output subscript {label} appears more than once in the output")
        if label not in known:
            raise RuntimeError(
                f"einsum(): output subscript {label} does not appear in the equation for any input operand"
            )
    return tensors, inputs, output


def _spelled(term: Sequence[Any], hidden: int) -> Labels:
    """The labels with the ellipsis as (-hidden,) ... (-1,): counted from the right, as broadcasting does."""
    found: list[Hashable] = []
    for label in term:
        found += [(i - hidden,) for i in range(hidden)] if label == "." else [label]
    return tuple(found)


def _prepared(tensor: Any, labels: Labels, sizes: dict[Hashable, int]) -> tuple[Any, Labels]:
    """Without repeated labels, and without dimensions of size 1 where other operands have more."""
    shape = tensor.array.shape
    while len(set(labels)) < len(labels):
        label = next(k for k in labels if labels.count(k) > 1)
        a = labels.index(label)
        b = labels.index(label, a + 1)
        if shape[a] != shape[b]:
            raise RuntimeError(
                f"einsum(): subscript {label} is repeated but the sizes don't match, {shape[b]} != {shape[a]}"
            )
        order = [i for i in range(len(shape)) if i not in (a, b)]
        moved = _ordered(tensor, [a, b, *order])
        along = np.arange(shape[a])
        tensor, labels = getitem(moved, (along, along)), (label, *[labels[i] for i in order])
        shape = tensor.array.shape
    kept = [i for i, (label, n) in enumerate(zip(labels, shape, strict=True)) if n == sizes[label]]
    if len(kept) < len(shape):
        tensor, labels = reshape(tensor, [shape[i] for i in kept]), tuple(labels[i] for i in kept)
    return tensor, labels


def _next_pair(parts: list[Labels], output: Labels, sizes: dict[Hashable, int]) -> tuple[int, int]:
    """Which two operands to join: those whose product saves the most memory."""
    if len(parts) == 2:
        return 0, 1

    def cost(i: int, j: int) -> tuple[int, int]:
        """What the product adds to the memory, then its multiplications."""
        needed = {*output, *(k for n, labels in enumerate(parts) if n not in (i, j) for k in labels)}
        joined = {*parts[i], *parts[j]}
        growth = _volume(joined & needed, sizes) - _volume(parts[i], sizes) - _volume(parts[j], sizes)
        return growth, _volume(joined, sizes)

    return min(((i, j) for j in range(len(parts)) for i in range(j)), key=lambda pair: cost(*pair))


def _volume(labels: Iterable[Hashable], sizes: dict[Hashable, int]) -> int:
    """How many elements a tensor of these labels has."""
    return math.prod(sizes[k] for k in labels)


def _summed(tensor: Any, labels: Labels, needed: set[Hashable]) -> tuple[Any, Labels]:
    """Without the labels that nothing needs."""
    over = tuple(i for i, label in enumerate(labels) if label not in needed)
    return (sum(tensor, over), tuple(k for k in labels if k in needed)) if over else (tensor, labels)


def _ordered(tensor: Any, order: list[int]) -> Any:
    return tensor if order == sorted(order) else permute(tensor, order)


def _joined(
    a: Any, of_a: Labels, b: Any, of_b: Labels, needed: set[Hashable], sizes: dict[Hashable, int]
) -> tuple[Any, Labels]:
    """Two operands as one: a (batch, left, middle) times b (batch, middle, right), summed over the middle."""
    a, of_a = _summed(a, of_a, needed | set(of_b))
    b, of_b = _summed(b, of_b, needed | set(of_a))
    batch = [k for k in of_a if k in of_b and k in needed]
    middle = [k for k in of_a if k in of_b and k not in needed]
    left = [k for k in of_a if k not in of_b]
    right = [k for k in of_b if k not in of_a]
    a = _ordered(a, [of_a.index(k) for k in batch + left + middle])
    b = _ordered(b, [of_b.index(k) for k in batch + middle + right])
    if middle:
        head = [_volume(batch, sizes)] if batch else []
        product = matmul(
            _shaped(a, [*head, _volume(left, sizes), _volume(middle, sizes)]),
            _shaped(b, [*head, _volume(middle, sizes), _volume(right, sizes)]),
        )
        product = _shaped(product, [sizes[k] for k in batch + left + right])
    else:
        product = mul(
            _shaped(a, [sizes[k] for k in batch + left] + [1] * len(right)),
            _shaped(b, [sizes[k] for k in batch] + [1] * len(left) + [sizes[k] for k in right]),
        )
    return product, tuple(batch + left + right)


def _shaped(tensor: Any, shape: list[Any]) -> Any:
    return tensor if tensor.array.shape == tuple(shape) else reshape(tensor, shape)


def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """The sum of products over pairs of dimensions: the last and first `dims`, or those that two lists name."""
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        if dims > min(a.array.ndim, b.array.ndim):
            raise RuntimeError(f"tensordot expects dims < ndim_a or ndim_b, but got dims={dims}")
        dims = list(range(a.array.ndim - dims, a.array.ndim)), list(range(dims))
    shape_a, shape_b = a.array.shape, b.array.shape
    over_a, over_b = (
        [normalize_dim(d, len(shape)) for d in ([over] if isinstance(over, int) else over)]
        for over, shape in zip(dims, (shape_a, shape_b), strict=True)
    )
    if len(over_a) != len(over_b):
        raise RuntimeError("both dimension lists should have same length")
    lone_a = [i for i, j in zip(over_a, over_b, strict=True) if shape_a[i] != 1 == shape_b[j]]
    lone_b = [j for i, j in zip(over_a, over_b, strict=True) if shape_b[j] != 1 == shape_a[i]]
    if lone_a or lone_b:  # a single element is paired with each of the other's
        a, b = (t.sum(lone, keepdim=True, dtype=t.dtype) if lone else t for t, lone in ((a, lone_a), (b, lone_b)))
        shape_a, shape_b = a.array.shape, b.array.shape
    for i, j in zip(over_a, over_b, strict=True):
        if shape_a[i] != shape_b[j]:
            raise RuntimeError(
                f"contracted dimensions need to match, but first has size {shape_a[i]} in dim {i} and second has size "
                f"{shape_b[j]} in dim {j}"
            )
    left = [i for i in range(len(shape_a)) if i not in over_a]
    right = [i for i in range(len(shape_b)) if i not in over_b]
    outer = [shape_a[i] for i in left], [shape_b[i] for i in right]
    middle = math.prod(shape_a[i] for i in over_a)
    product = mm(
        reshape(_ordered(a, [*left, *over_a]), [math.prod(outer[0]), middle]),
        reshape(_ordered(b, [*over_b, *right]), [middle, math.prod(outer[1])]),
    )
    return reshape(product, outer[0] + outer[1])


def inner(input: Any, other: Any) -> Any:
    """The sums of products over the last dimension of both; the product where one is a scalar."""
    a, b = input.array.shape, other.array.shape
    if not a or not b:
        return mul(input, other)
    if a[-1] != b[-1]:
        raise RuntimeError(
            f"inner() the last dimension must match on both input tensors but got shapes {list(a)} and {list(b)}"
        )
    return tensordot(input, other, ([-1], [-1]))


def kron(input: Any, other: Any) -> Any:
    """The Kronecker product: every element of input times the whole of other."""
    a, b = input.array.shape, other.array.shape
    n = max(len(a), len(b))
    a, b = (1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b
    spread = mul(reshape(input, [k for m in a for k in (m, 1)]), reshape(other, [k for m in b for k in (1, m)]))
    return reshape(spread, [i * j for i, j in zip(a, b, strict=True)])


def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """The vector product along dim, of size 3 (when not given, the first such dimension)."""
    if is_array(input):
        return np.cross(input, other, axis=dim)
    a, b = input.array, other.array
    if a.dtype != b.dtype:
        raise RuntimeError(f"expected scalar type {of(a.dtype).title} but found {of(b.dtype).title}")
    if a.ndim != b.ndim:
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    if dim is None:
        dim = next((i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m == n == 3), None)
        if dim is None:
            raise RuntimeError("no dimension of size 3 in input")
    axis = normalize_dim(dim, a.ndim)
    if a.shape[axis] != 3 or b.shape[axis] != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {a.shape[axis]} and {b.shape[axis]}"
        )
    try:
        value = np.cross(a, b, axis=axis)
    except ValueError:
        raise RuntimeError(cannot_broadcast(a.shape, b.shape)) from None
    left, right = a.shape, b.shape
    return record(
        "LinalgCrossBackward0",
        value,
        (input, lambda g, b: sum_to(cross(b, g, axis), left), other),
        (other, lambda g, a: sum_to(cross(g, a, axis), right), input),
    )


def chain_matmul(*matrices: Any) -> Any:
    """The product of several matrices in the order that takes the fewest multiplications (see linalg.multi_dot)."""
    return multi_dot(matrices)


def multi_dot(tensors: Sequence[Any]) -> Any:
    """The product of several matrices in the order that takes the fewest multiplications; the ends may be vectors.

    Source: Cormen et al., Introduction to Algorithms, section "Matrix-chain multiplication".
    """
    parts = list(tensors)
    if len(parts) < 2:
        raise RuntimeError(f"multi_dot(): expected at least 2 tensors but got {len(parts)}")
    row, column = parts[0].array.ndim == 1, parts[-1].array.ndim == 1
    if row:
        parts[0] = reshape(parts[0], (1, -1))
    if column:
        parts[-1] = reshape(parts[-1], (-1, 1))
    for i, part in enumerate(parts):
        if part.array.ndim != 2:
            raise RuntimeError(f"multi_dot(): tensor {i} must be 2D but got {part.array.ndim}D")
    n, d = len(parts), [parts[0].array.shape[0], *(p.array.shape[1] for p in parts)]
    cost, cut = {(i, i): 0 for i in range(n)}, {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            cost[i, j], cut[i, j] = min(
                (cost[i, k] + cost[k + 1, j] + d[i] * d[k + 1] * d[j + 1], k) for k in range(i, j)
            )

    def multiplied(i: int, j: int) -> Any:
        return parts[i] if i == j else mm(multiplied(i, cut[i, j]), multiplied(cut[i, j] + 1, j))

    shape = d[: 1 - row] + d[-1:] * (not column) if row or column else None
    product = multiplied(0, n - 1)
    return product if shape is None else reshape(product, shape)
