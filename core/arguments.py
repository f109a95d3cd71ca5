"""What PyTorch's functions accept beside the arguments that an op computes with.

That is NumPy's names (axis, keepdims), sizes by keyword, names of a second form of a function, `out=`, and options for
memory that make no difference here. Ops do not know of it: `publish` puts it around what users call. A call with
the op's own names pays for one more Python call, of about 0.1 us.
"""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

from .ops.inplace import overwrite

SPELLINGS = {"axis": "dim", "keepdims": "keepdim", "x": "input", "x1": "input", "x2": "other"}
OWN_SPELLINGS = {  # names of another form of the function, or where several ops share one definition
    "addbmm": {"batch1": "a", "batch2": "b"},
    "addmm": {"mat1": "a", "mat2": "b"},
    "addmv": {"mat": "a", "vec": "b"},
    "addr": {"vec1": "a", "vec2": "b"},
    "baddbmm": {"batch1": "a", "batch2": "b"},
    "det": {"input": "A"},
    "dsplit": {"sections": "indices_or_sections", "indices": "indices_or_sections"},
    "heaviside": {"values": "other"},
    "hsplit": {"sections": "indices_or_sections", "indices": "indices_or_sections"},
    "max": {"other": "dim"},
    "min": {"other": "dim"},
    "pow": {"exponent": "other"},
    "result_type": {"tensor": "tensor1", "other": "tensor2"},
    "slogdet": {"input": "A"},
    "split": {"split_size": "split_size_or_sections"},
    "tensor_split": {"sections": "indices_or_sections", "indices": "indices_or_sections"},
    "transpose": {"axis0": "dim0", "axis1": "dim1"},
    "view": {"dtype": "size"},
    "vsplit": {"sections": "indices_or_sections", "indices": "indices_or_sections"},
}
OF_MEMORY = {"layout", "memory_format", "pin_memory"}  # of functions that make tensors


@functools.cache
def accepting(op: Callable[..., Any]) -> Callable[..., Any]:
    """The op as users call it."""
    code: types.CodeType = inspect.unwrap(op).__code__
    count = code.co_argcount + code.co_kwonlyargcount
    known = frozenset(code.co_varnames[:count])
    several = code.co_varnames[count] if code.co_flags & inspect.CO_VARARGS else ""

    @functools.wraps(op)
    def call(*args: Any, **names: Any) -> Any:
        try:
            return op(*args, **names)
        except TypeError:
            if names.keys() <= known:
                raise
        except AttributeError as error:
            _check_tensor(op.__name__, [*zip(code.co_varnames, args, strict=False), *names.items()], error)
            raise
        own = OWN_SPELLINGS.get(op.__name__.rstrip("_"), {})
        out = names.pop("out", None)
        if out is not None and {"dtype", "device"} <= known:
            names.setdefault("dtype", out.dtype)
        for name in names.keys() - known:
            meant = own.get(name) or SPELLINGS.get(name, name)
            if meant == several:
                args = (*args, names.pop(name))
            elif meant in known and meant not in names:
                names[meant] = names.pop(name)
            elif name in OF_MEMORY and "device" in known:
                del names[name]
        result = op(*args, **names)
        return result if out is None else _written(op.__name__, result, out)

    return call


def _check_tensor(op: str, arguments: list[tuple[str, Any]], error: AttributeError) -> None:
    """TypeError with the name of the argument whose array an op asked for in vain, if that is the error."""
    for place, (name, value) in enumerate(arguments, 1):
        if error.name == "array" and error.obj is value:
            kind = type(value).__name__
            raise TypeError(f"{op}(): argument '{name}' (position {place}) must be Tensor, not {kind}") from None


def _written(op: str, result: Any, out: Any) -> Any:
    """out, or each tensor of a tuple out, with the elements of the result; resized where it has another shape."""
    if isinstance(result, tuple):
        parts = [_written(op, part, place) for part, place in zip(result, out, strict=True)]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if result.needs or out.needs:
        raise RuntimeError(
            f"{op}(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad."
        )
    if out.array.shape != result.array.shape:
        if out.array.size:
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out.shape)}, which does not "
                f"match the required output shape {list(result.shape)}: pass an empty tensor, or one of this shape",
                stacklevel=4,
            )
        out.array = type(out.array)(result.array.shape, out.array.dtype)
    return overwrite(out, result)


def publish(namespace: dict[str, Any], module: str) -> None:
    """Put `accepting` around every public op of a module's namespace, which is where pickles then look for it."""
    for name, op in list(namespace.items()):
        if _is_op(name, op):
            namespace[name] = call = accepting(op)
            if call.__module__ == op.__module__:  # else it is at home elsewhere
                call.__module__, call.__qualname__ = module, name


def publish_methods(owner: type) -> None:
    """Put `accepting` around the methods, but not the operators, that have something to accept: none takes out."""
    spelled = {*SPELLINGS.values()} - {"input", "other"}
    for name, op in list(vars(owner).items()):
        if _is_op(name, op):
            code = inspect.unwrap(op).__code__
            if (
                spelled & {*code.co_varnames}
                or code.co_flags & inspect.CO_VARARGS
                or op.__name__.rstrip("_") in OWN_SPELLINGS
            ):
                setattr(owner, name, accepting(op))


def _is_op(name: str, value: Any) -> bool:
    return (
        isinstance(value, types.FunctionType)
        and not name.startswith("_")
        and not inspect.unwrap(value).__code__.co_flags & inspect.CO_VARKEYWORDS
        and value.__module__.rpartition(".")[0].endswith(("core", "core.ops"))
    )
