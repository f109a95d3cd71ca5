"""Tensor: an array with a place on the tape."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from . import autograd, backend, dtypes
from .autograd import Node, RemovableHandle, Variable, bind_tensor_class, wrap
from .backend import CPU, device_of, is_array, to_device, to_host
from .dlpack import Exchange
from .methods import Methods
from .ops import shape as shapes
from .ops.pointwise import cast
from .ops.shape import Size
from .printing import tensor_text

PYTHON_TYPES: dict[Any, dtypes.dtype] = {float: dtypes.float64, int: dtypes.int64, bool: dtypes.bool_}


OPERATORS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: operator.add,
    np.bitwise_and: operator.and_,
    np.bitwise_or: operator.or_,
    np.bitwise_xor: operator.xor,
    np.equal: operator.eq,
    np.floor_divide: operator.floordiv,
    np.greater: operator.gt,
    np.greater_equal: operator.ge,
    np.left_shift: operator.lshift,
    np.less: operator.lt,
    np.less_equal: operator.le,
    np.multiply: operator.mul,
    np.not_equal: operator.ne,
    np.power: operator.pow,
    np.remainder: operator.mod,
    np.right_shift: operator.rshift,
    np.subtract: operator.sub,
    np.true_divide: operator.truediv,
}


class Tensor(Methods, Exchange):
    """A multi-dimensional array of one dtype that can record how it was computed."""

    __module__ = "mpigrad"  # where users find it, and what they see printed

    def __new__(cls, *data: Any, dtype: dtypes.dtype | None = None) -> Tensor:
        """A tensor of the default dtype with the elements of nested lists or an array, or with unset ones of a size.

        PyTorch's legacy constructor; prefer `tensor` and `empty`.
        """
        tensor = Variable.__new__(cls)
        kind = (dtype or dtypes.get_default_dtype()).numpy
        if data and all(isinstance(n, int) for n in data):
            tensor.array = np.empty(data, kind)
        elif len(data) == 1 and isinstance(data[0], Size):
            tensor.array = np.empty(data[0], kind)
        elif len(data) > 1 or (data and isinstance(data[0], float)):
            raise TypeError(f"new(): data must be a sequence (got {type(data[0]).__name__})")
        else:
            tensor.array = np.array(data[0] if data else (), kind)
        tensor.needs, tensor.node, tensor.source, tensor.version = False, None, None, [0]
        return tensor

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """The sizes of all dimensions."""
        return Size(self.array.shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim  # type: ignore[no-any-return]

    @property
    def dtype(self) -> dtypes.dtype:
        """The element type."""
        return dtypes.of(self.array.dtype)

    @property
    def device(self) -> backend.device:
        """Where the elements live."""
        return device_of(self.array)

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.array.shape[shapes.normalize_dim(dim, self.ndim)]

    def dim(self) -> int:
        """The number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """The number of elements."""
        return int(self.array.size)

    ndimension, nelement = dim, numel

    @property
    def itemsize(self) -> int:
        """The bytes of one element."""
        return int(self.array.itemsize)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return int(self.array.nbytes)

    @property
    def is_cpu(self) -> bool:
        """Whether the elements are in the host's memory."""
        return isinstance(self.array, np.ndarray)

    @property
    def is_cuda(self) -> bool:
        """Whether the elements are in a GPU's memory."""
        return not self.is_cpu

    @property
    def layout(self) -> dtypes.layout:
        """Always mpigrad.strided."""
        return dtypes.strided

    is_sparse = is_quantized = is_meta = False  # kinds of tensors that there are not

    def get_device(self) -> int:
        """The number of the GPU that holds the elements; -1 for the CPU."""
        return -1 if self.is_cpu else int(self.array.device.id)

    def is_same_size(self, other: Tensor) -> bool:
        """Whether other has the same shape."""
        return bool(self.array.shape == other.array.shape)

    def element_size(self) -> int:
        """The bytes of one element."""
        return int(self.array.itemsize)

    def stride(self, dim: int | None = None) -> Any:
        """The step in elements along each dimension, or along one."""
        steps = tuple(s // self.array.itemsize for s in self.array.strides)
        return steps if dim is None else steps[shapes.normalize_dim(dim, len(steps))]

    def is_contiguous(self) -> bool:
        """Whether the memory is in row-major order."""
        return bool(self.array.flags.c_contiguous)

    def data_ptr(self) -> int:
        """The address of the first element."""
        array = self.array
        return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)

    def storage_offset(self) -> int:
        """The place of the first element in the memory of the tensor that this one is a view of, in elements."""
        base = self
        while base.source is not None:
            base = base.source[0]
        return (self.data_ptr() - base.data_ptr()) // self.itemsize

    def pin_memory(self, device: Any = None) -> Tensor:
        """The tensor itself: copies to a GPU are finished when they return, so pinned memory would gain nothing."""
        return self

    def is_pinned(self, device: Any = None) -> bool:
        """Never, see pin_memory."""
        return False

    # --- autograd ---------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to this tensor."""
        return self.needs

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.node is not None:
            raise RuntimeError("you can only change requires_grad flags of leaf variables.")
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set requires_grad; RuntimeError for integers, and for clearing it on a tensor with history."""
        if requires_grad and self.array.dtype.kind not in dtypes.FLOATING:
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        if not requires_grad and self.node is not None:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in "
                "a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
            )
        self.needs = requires_grad
        return self

    @property
    def grad_fn(self) -> Node | None:
        """The op that made this tensor; None for a leaf."""
        return self.node

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made this tensor."""
        return self.node is None

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient; None before a backward pass reached this leaf."""
        return self._grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}"
            )
        if value is not None and value.array.shape != self.array.shape:
            raise RuntimeError(
                f"attempting to assign a gradient of size '{list(value.shape)}' to a tensor of size "
                f"'{list(self.shape)}'. Please ensure that the gradient and the tensor are the same size"
            )
        self._grad = value

    def retain_grad(self) -> None:
        """Store the gradient of this non-leaf in `.grad` too, as the hooks leave it."""
        if not self.needs:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self.node is None or self._retained is not None:
            return
        reference = weakref.ref(self)  # the node's hook must not keep its own tensor alive

        def keep(gradient: Tensor) -> None:
            if (tensor := reference()) is not None:
                tensor._grad = gradient.clone() if tensor._grad is None else tensor._grad + gradient

        self._retained = self.register_hook(keep)

    _retained: RemovableHandle | None = None

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad` made this non-leaf store its gradient."""
        return self._retained is not None

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call hook with this tensor's gradient in every backward pass; what it returns replaces the gradient."""
        if not self.needs:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self.node is None:
            if self.gradient_hooks is None:
                self.gradient_hooks = []
            return RemovableHandle(self.gradient_hooks, hook)
        if self.node.hooks is None:
            self.node.hooks = []
        place = len(self.node.hooks) - self.retains_grad  # what retain_grad does comes last
        return RemovableHandle(self.node.hooks, hook, place=place)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call hook with this leaf whenever a backward pass has made its gradient final."""
        if self.node is not None:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        if self.hooks is None:
            self.hooks = []
        return RemovableHandle(self.hooks, hook)

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Accumulate the gradient of this tensor (weighted by `gradient`) into the leaves; see autograd.backward."""
        autograd.backward((self,), (gradient,), retain_graph, create_graph, inputs)

    @property
    def data(self) -> Tensor:
        """The same memory outside the tape: changing it in place goes unnoticed by autograd."""
        return wrap(self.array)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(value).__name__}")
        if self.needs and value.array.dtype.kind not in dtypes.FLOATING:
            raise RuntimeError("data set to a tensor that requires gradients must be floating point or complex dtype")
        self.array, self.home = value.array, None

    def detach(self) -> Tensor:
        """The same memory without history."""
        tensor = wrap(self.array)
        tensor.version = self.version
        return tensor

    def detach_(self) -> Tensor:
        """Forget the history: this tensor becomes a leaf. RuntimeError for a view, whose memory has another's."""
        if self.source is not None:
            raise RuntimeError("Can't detach views in-place. Use detach() instead.")
        self.node, self.needs = None, False
        return self

    @property
    def _version(self) -> int:
        """How often the memory was changed in place."""
        return self.version[0]  # type: ignore[no-any-return]

    # --- elements out -----------------------------------------------------------------------------------------------

    def item(self) -> Any:
        """The only element as a Python number; RuntimeError when there are several."""
        if self.array.size != 1:
            raise RuntimeError(f"a Tensor with {self.array.size} elements cannot be converted to Scalar")
        return self.array.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers; a number for a scalar."""
        return to_host(self.array).tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The NumPy array that shares this tensor's memory; an error with a gradient or on a GPU.

        force: without these errors, as a copy on the host where that is needed.
        """
        if force:
            return to_host(self.array)
        if self.needs:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if not isinstance(self.array, np.ndarray):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # beside NumPy's numbers an operator is the tensor's own, `np.sqrt(2) * x` as `2**0.5 * x`
        # NumPy's other functions on a tensor are computed by NumPy, outside the tape, and handed back as a tensor
        if ufunc in OPERATORS and not kwargs and any(not isinstance(v, Tensor) and np.ndim(v) == 0 for v in inputs):
            return OPERATORS[ufunc](*[v if isinstance(v, Tensor) else np.asarray(v).item() for v in inputs])
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(v.numpy() if isinstance(v, Tensor) else v for v in out)
        arrays = [v.numpy() if isinstance(v, Tensor) else v for v in inputs]
        result = getattr(ufunc, method)(*arrays, **kwargs)
        if out is not None:
            return out if isinstance(result, tuple) else out[0]
        return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)

    def __bool__(self) -> bool:
        if self.array.size != 1:
            amount = "no" if self.array.size == 0 else "more than one"
            raise RuntimeError(f"Boolean value of Tensor with {amount} value{'s' * (amount == 'no')} is ambiguous")
        return bool(self.array.item())

    def _number(self) -> Any:
        if self.array.size != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self.array.item()

    def __int__(self) -> int:
        return int(self._number())

    def __float__(self) -> float:
        return float(self._number())

    def __index__(self) -> int:
        if self.array.dtype.kind not in "iub" or self.array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.array.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else object.__format__(self, spec)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return int(self.array.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return iter(self.unbind())

    def __reversed__(self) -> Tensor:
        return self.flip(0) if self.ndim else self

    def __contains__(self, element: Any) -> bool:
        if not isinstance(element, (Tensor, bool, int, float)):
            raise RuntimeError(
                f"Tensor.__contains__ only supports Tensor or scalar, but you passed in a {type(element)}."
            )
        return bool((self == element).array.any())

    __hash__ = object.__hash__  # by identity, although == compares elements

    def __repr__(self) -> str:
        return tensor_text(to_host(self.array), prefix="tensor(", suffixes=self._suffixes())

    def _suffixes(self) -> list[str]:
        data, found = self.array, []
        if not isinstance(data, np.ndarray):
            found.append(f"device='{self.device}'")
        usual = (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_) if data.size else (dtypes.get_default_dtype(),)
        if self.dtype not in usual:
            found.append(f"dtype={self.dtype}")
        if self.node is not None:
            found.append(f"grad_fn=<{self.node.name()}>")
        elif self.needs:
            found.append("requires_grad=True")
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self.node is not None:
            raise RuntimeError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
                "moment."
            )
        copy = Tensor.__new__(type(self), dtype=self.dtype)
        copy.array, copy.needs = self.array.copy("K"), self.needs
        copy._grad = None if self._grad is None else wrap(self._grad.array.copy())
        memo[id(self)] = copy
        self._hand_on(copy, lambda value: deepcopy(value, memo))
        return copy

    def __copy__(self) -> Tensor:
        """A leaf over the same memory."""
        copy = Tensor.__new__(type(self))
        copy.array, copy.needs, copy.version = self.array, self.needs, self.version
        self._hand_on(copy, lambda value: value)
        return copy

    def _hand_on(self, copy: Tensor, how: Callable[[Any], Any]) -> None:
        """Give a copy the attributes that a user set."""
        copy.__dict__.update({k: how(v) for k, v in self.__dict__.items() if not hasattr(type(self), k)})

    def __reduce__(self) -> Any:
        raise TypeError("a Tensor is not pickled: save a state dict with mpigrad.save_file")

    # --- copies -----------------------------------------------------------------------------------------------------

    def to(
        self,
        *args: Any,
        dtype: Any = None,
        device: Any = None,
        non_blocking: bool = False,
        copy: bool = False,
        memory_format: Any = None,
    ) -> Tensor:
        """In another dtype or on another device (both of `other` in `to(other)`); itself where nothing changes.

        non_blocking, memory_format: accepted; copies are finished when this returns, and keep their layout.
        """
        flags = []
        for arg in args:
            if isinstance(arg, Tensor):
                dtype, device = arg.dtype, arg.device
            elif isinstance(arg, dtypes.dtype):
                dtype = arg
            elif isinstance(arg, type) and arg in PYTHON_TYPES:
                dtype = PYTHON_TYPES[arg]
            elif isinstance(arg, bool):
                flags.append(arg)
            elif arg is not None:
                device = arg
        copy = copy or flags[1:] == [True]
        result = self if dtype is None else cast(self, dtype.numpy)
        if device is not None:
            here, there = result.device, _device(device)
            data = to_device(result.array, there)
            if data is not result.array:
                source = result
                vjp = lambda g: to_device(g, here) if is_array(g) else g.to(device=here)
                result = autograd.record("ToCopyBackward0", data, (source, vjp))
        return shapes.clone(result) if copy and result is self else result

    def cpu(self, memory_format: Any = None) -> Tensor:
        """On the host; memory_format: accepted, as by `to`."""
        return self.to(device=CPU)

    def cuda(self, device: Any = None, non_blocking: bool = False, memory_format: Any = None) -> Tensor:
        """On a GPU, the current one unless said; non_blocking, memory_format: accepted, as by `to`."""
        return self.to(device="cuda" if device is None else device)

    def astype(self, dtype: Any) -> Tensor:
        """NumPy's name for `to(dtype)`; takes NumPy dtypes."""
        return cast(self, np.dtype(dtype))  # type: ignore[no-any-return]


def _device(where: Any) -> backend.device:
    return where if isinstance(where, backend.device) else backend.device(where)


class Parameter(Tensor):
    """A tensor that a Module registers as something to learn; requires gradients by default."""

    __module__ = "mpigrad.nn.parameter"

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        """Over the same memory as data."""
        parameter = Tensor.__new__(cls)
        if data is not None:
            parameter.array, parameter.version = data.array, data.version
        parameter.requires_grad_(requires_grad)
        return parameter  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        """The values alone, as in PyTorch: no gradient."""
        memo[id(self)] = copy = type(self)(wrap(self.array.copy("K")), self.needs)
        return copy

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def zero_gradients(tensors: Iterable[Tensor], set_to_none: bool) -> None:
    """Forget the tensors' gradients, or set them to 0 (and take them off the tape)."""
    for tensor in tensors:
        if set_to_none or tensor._grad is None:
            tensor._grad = None
        else:
            tensor._grad.node, tensor._grad.needs = None, False
            tensor._grad.zero_()


bind_tensor_class(Tensor)
