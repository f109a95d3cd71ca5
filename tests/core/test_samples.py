"""Every op and every module on PyTorch's own sample inputs: values, and gradients in float64, against PyTorch.

The samples are those of PyTorch's own tests (its `op_db` and `module_db`): empty, scalar, broadcast, negative
dimensions, keepdim, non-contiguous. They cover what mpigrad has under PyTorch's name, function, method or module.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import pytest

import mpigrad

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'mpigrad[oracle]'")
pytest.importorskip("expecttest", reason="PyTorch's samples need expecttest: pip install 'mpigrad[oracle]'")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

pytestmark = [pytest.mark.mpi_skip, pytest.mark.filterwarnings("ignore")]

SEED = 42  # PyTorch's own wrappers of random ops set it
# what differs from PyTorch, and why; a test fails when it does not differ any more
DIFFERS = {
    "as_strided.partial_views": "a NumPy array cannot look beside itself, which these samples do",
    "bernoulli": "the result is no function of the probabilities, so it needs no gradient",
    "index_fill": "an index that occurs twice writes one value once: it gets the gradient once, PyTorch counts twice",
    "linalg.eigh": "eigenvectors are defined up to their sign",
    "linalg.lstsq": "a driver is accepted, but what is returned beside the solution is the default's",
    "linalg.lstsq.grad_oriented": "compares the first two results of another call",
    "linalg.matrix_power": "the power 0 is a constant: it needs no gradient",
    "linalg.pinv.hermitian": "the sample is made symmetric by PyTorch's wrapper",
    "linalg.pinv.singular": "the sample is made of two factors by PyTorch's wrapper",
    "linalg.svd": "singular vectors are defined up to their sign",
    "nextafter": "constant almost everywhere: it needs no gradient",
    "nn.functional.batch_norm": "PyTorch takes an empty vector, which has no channels",
    "normal": "a draw is no function of mean and deviation, so it needs no gradient",
    "normal.in_place": "PyTorch's wrapper calls another function",
    "normal.number_mean": "the wrapper sets no seed",
    "quantile": "no gradient towards the quantile's place",
    "nanquantile": "no gradient towards the quantile's place",
    "zero_": "PyTorch's wrapper works on a copy",
}
# whose results are not defined, and what NumPy cannot show
SKIPPED = {"bfloat16", "empty", "empty_like", "new_empty", "new_empty_strided", "rand_like", "sgn", "__rmatmul__"}

IN_ANOTHER_ORDER: dict[str, Callable[..., Any]] = {  # PyTorch's samples put the differentiable input first
    "polygamma": lambda f: lambda x, n: f(n, x),
    "special.polygamma": lambda f: lambda x, n: f(n, x),
    "where": lambda f: lambda x, condition, other: f(condition, x, other),
    "einsum": lambda f: lambda operands, equation: f(equation, *operands),
    "nn.functional.embedding": lambda f: lambda weight, index, **options: f(index, weight, **options),
    "nn.functional.embedding_bag": lambda f: lambda weight, index, **options: f(index, weight, **options),
}


class Unknown(Exception):
    """The sample holds something that mpigrad does not have."""


def ours(value: Any, made: dict[int, Any] | None = None) -> Any:
    """The sample's value as mpigrad's; a tensor that occurs twice stays one tensor (in `made`, by its id)."""
    made = {} if made is None else made
    if isinstance(value, torch.Tensor):
        if not hasattr(mpigrad, str(value.dtype).removeprefix("torch.")) or value.is_complex():
            raise Unknown
        if id(value) not in made:
            made[id(value)] = mpigrad.from_numpy(value.detach().numpy()).requires_grad_(value.requires_grad)
        return made[id(value)]
    if isinstance(value, torch.dtype):
        return getattr(mpigrad, str(value).removeprefix("torch."))
    if isinstance(value, torch.device):
        return mpigrad.device(str(value))
    if isinstance(value, torch.Size):
        return mpigrad.Size(value)
    if isinstance(value, dict):
        return {name: ours(item, made) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(ours(item, made) for item in value)
    if isinstance(value, torch.memory_format | complex) or callable(value) or is_dataclass(value):
        raise Unknown
    return value


def function(name: str) -> Any:
    """mpigrad's function of PyTorch's name, or its method; None if there is neither."""
    found: Any = mpigrad
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None and "." not in name:
        found = getattr(mpigrad.Tensor, name, None)
    if isinstance(found, property):
        return lambda x: getattr(x, name)
    if isinstance(found, mpigrad.dtype):
        return lambda x, **options: getattr(x, name)(**options)
    return IN_ANOTHER_ORDER.get(name, lambda f: f)(found)


def tensors(value: Any, kind: type) -> Iterator[Any]:
    if isinstance(value, kind):
        yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()), kind)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item, kind)


def check(op: Any, call: Any, sample: Any) -> None:
    """AssertionError unless mpigrad computes what PyTorch does; whatever either raises."""
    try:
        expected = op.op(sample.input, *sample.args, **sample.kwargs)
        given = ours((sample.input, sample.args, sample.kwargs))
    except Unknown:
        return
    mpigrad.manual_seed(SEED)
    found = call(given[0], *given[1], **given[2])
    compare(expected, found, [sample.input, sample.args, sample.kwargs], given)


def compare(expected: Any, found: Any, their_leaves: Any, my_leaves: Any) -> None:
    """AssertionError unless the outputs are equal, and so are the gradients of the leaves."""
    theirs, mine = list(tensors(expected, torch.Tensor)), list(tensors(found, mpigrad.Tensor))
    assert len(mine) == len(theirs)
    for a, b in zip(theirs, mine, strict=True):
        assert str(b.dtype).removeprefix("mpigrad.") == str(a.dtype).removeprefix("torch.")
        close(b, a)
    wanted = [t for t in theirs if t.requires_grad]
    assert [b.requires_grad for b in mine] == [a.requires_grad for a in theirs]
    if not wanted:
        return
    weights = [torch.linspace(0.5, 1.5, t.numel(), dtype=t.dtype).reshape(t.shape) for t in wanted]
    leaves = [t for t in tensors(their_leaves, torch.Tensor) if t.requires_grad]
    try:
        gradients = torch.autograd.grad(wanted, leaves, weights, allow_unused=True)
    except RuntimeError:  # PyTorch has none
        return
    my_leaves = [t for t in tensors(my_leaves, mpigrad.Tensor) if t.requires_grad]
    outputs = [t for t in mine if t.requires_grad]
    for leaf, a, b in zip(
        leaves,
        gradients,
        mpigrad.autograd.grad(outputs, my_leaves, [ours(w) for w in weights], allow_unused=True),
        strict=True,
    ):
        zero = torch.zeros_like(leaf)  # no gradient and a gradient of zeros say the same
        close(ours(zero) if b is None else b, zero if a is None else a)


def close(found: Any, expected: Any) -> None:
    a, b = expected.detach().numpy(), found.detach().numpy()
    assert a.shape == b.shape
    single = a.dtype == np.float32
    np.testing.assert_allclose(b, a, rtol=1e-4 if single else 1e-6, atol=1e-4 if single else 1e-8)


def name_of(op: Any) -> str:
    return ".".join(filter(None, [op.name, op.variant_test_name]))


OPS = {
    name_of(op): op
    for op in op_db
    if torch.float64 in op.dtypes and op.name not in SKIPPED and function(op.name) is not None
}


@pytest.mark.parametrize("name", OPS)
def test_samples(name: str) -> None:
    op = OPS[name]
    call = function(op.name)
    torch.manual_seed(0)
    problems = []
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=op.supports_autograd):
        try:
            check(op, call, sample)
        except Exception as error:  # noqa: BLE001
            problems.append(f"{sample.summary()}\n{type(error).__name__}: {error}")
    if name in DIFFERS:
        assert problems, f"{name} does not differ any more: take it off the list"
    else:
        assert not problems, f"{len(problems)} samples differ, the first: {problems[0]}"


def test_most_ops_are_covered() -> None:
    assert len(OPS) > 400
    assert set(DIFFERS) <= set(OPS)


MODULES = {
    info.name.removeprefix("nn."): info for info in module_db if hasattr(mpigrad.nn, info.name.removeprefix("nn."))
}
WITH_ERRORS = [name for name, info in MODULES.items() if info.module_error_inputs_func is not None]
MODULE_ERRORS_DIFFER = {
    "GRU": "an input of another dtype is refused by the first product, with a RuntimeError",
    "LSTM": "as GRU",
    "RNN": "as GRU",
}
MOST = 16  # samples of one module, evenly chosen


def module_samples(name: str, function: str, training: bool, **options: Any) -> list[Any]:
    info = MODULES[name]
    torch.manual_seed(0)
    made = getattr(info, function)(info, device="cpu", dtype=torch.float64, training=training, **options)
    return made[:: len(made) // MOST + 1]


def run(m: Any, name: str, training: bool, made: Any, given: Any) -> tuple[Any, Any]:
    """A module, and what it gives; (args, kwargs) to make it, and to call it (None: it is not called)."""
    m.manual_seed(1)
    module = getattr(m.nn, name)(*made[0], **made[1]).train(training)
    if not name.endswith("Loss"):  # whose weights have the dtype of the sample
        module.double()
    return module, given and module(*given[0], **given[1])


def arguments(sample: Any) -> tuple[Any, Any]:
    """(args, kwargs) of a module's constructor, and of its call."""
    given = sample.forward_input
    return (sample.constructor_input.args, sample.constructor_input.kwargs), (given and (given.args, given.kwargs))


def check_module(name: str, training: bool, sample: Any) -> None:
    """AssertionError unless a module says, holds, computes and learns what PyTorch's does; whatever either raises."""
    made, given = arguments(sample)
    try:
        mine_made, mine_given = ours((made, given))
    except Unknown:
        return
    theirs, expected = run(torch, name, training, made, given)
    mine, found = run(mpigrad, name, training, mine_made, mine_given)
    assert repr(mine).replace("mpigrad", "torch") == repr(theirs)
    compare(expected, found, [given, *theirs.parameters()], [mine_given, *mine.parameters()])
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        close(mine.state_dict()[key], value)


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    for training in (True, False):
        for sample in module_samples(name, "module_inputs_func", training, requires_grad=True):
            check_module(name, training, sample)


def failure(m: Any, name: str, training: bool, made: Any, given: Any) -> Any:
    """The class of the error that a module raises when it is made or called; None if there is none."""
    try:
        run(m, name, training, made, given)
    except Exception as error:  # noqa: BLE001
        return type(error)
    return None


@pytest.mark.parametrize("name", WITH_ERRORS)
def test_module_errors(name: str) -> None:
    differing = []
    for training in (True, False):
        for sample in module_samples(name, "module_error_inputs_func", training, requires_grad=False):
            how = arguments(sample.module_error_input)
            try:
                found = failure(mpigrad, name, training, *ours(how))
            except Unknown:
                continue
            expected = failure(torch, name, training, *how)
            if found is not expected:
                differing.append((how, found, expected))
    assert bool(differing) == (name in MODULE_ERRORS_DIFFER), differing


def test_most_modules_are_covered() -> None:
    assert len(MODULES) > 100
    assert set(MODULE_ERRORS_DIFFER) <= set(WITH_ERRORS)


# in which PyTorch chooses otherwise among equal elements
TIES = {"argsort", "kthvalue", "mode", "sort", "topk"}
WHOLE = {
    name_of(op): op
    for op in op_db
    if op.name not in {*SKIPPED, *TIES} and function(op.name) is not None and {torch.int32, torch.bool} & {*op.dtypes}
}


@pytest.mark.parametrize("name", WHOLE)
def test_samples_of_whole_numbers(name: str) -> None:
    """Values and dtypes of the first samples in int32 and bool."""
    op = WHOLE[name]
    problems = []
    for dtype in sorted({torch.int32, torch.bool} & {*op.dtypes}, key=str):
        torch.manual_seed(0)
        for sample in itertools.islice(op.sample_inputs("cpu", dtype), 6):
            try:
                check(op, function(op.name), sample)
            except Exception as error:  # noqa: BLE001
                problems.append(f"{sample.summary()}\n{type(error).__name__}: {error}")
    if name != "as_strided.partial_views":  # see DIFFERS
        assert not problems, f"{len(problems)} samples differ, the first: {problems[0]}"
