"""mpigrad: PyTorch-shaped tensors, autograd and neural networks on NumPy and CuPy, trained data-parallel over MPI."""

import sys

from . import core, ddp
from .core import autograd, data, nn, optim
from .core.autograd import enable_grad, no_grad, set_grad_enabled
from .core.autograd import is_recording as is_grad_enabled
from .core.backend import device
from .core.creation import (
    arange,
    as_tensor,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from .core.dtypes import bool_ as bool
from .core.dtypes import (
    dtype,
    float16,
    float32,
    float64,
    get_default_dtype,
    int8,
    int16,
    int32,
    int64,
    set_default_dtype,
    uint8,
)
from .core.dtypes import float16 as half
from .core.dtypes import float32 as float
from .core.dtypes import float64 as double
from .core.dtypes import int16 as short
from .core.dtypes import int32 as int
from .core.dtypes import int64 as long
from .core.generator import Generator, default_generator, initial_seed, manual_seed, seed
from .core.ops.elementwise import (
    abs,
    add,
    bitwise_and,
    bitwise_not,
    bitwise_or,
    bitwise_xor,
    cos,
    div,
    eq,
    exp,
    floor_divide,
    ge,
    gt,
    isfinite,
    isinf,
    isnan,
    le,
    log,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    relu,
    remainder,
    rsub,
    sigmoid,
    sign,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from .core.ops.linalg import matmul
from .core.ops.reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    prod,
    softmax,
    std,
    sum,
    var,
)
from .core.ops.shape import (
    Size,
    cat,
    clone,
    flatten,
    permute,
    reshape,
    squeeze,
    stack,
    t,
    transpose,
    unsqueeze,
)
from .core.printing import set_printoptions
from .core.serialization import load_file, save_file
from .core.tensor import Parameter, Tensor

__version__ = "0.1.0"

# fmt: off
__all__ = [  # noqa: RUF022  (PyTorch's names, alphabetically)
    "Generator", "Parameter", "Size", "Tensor", "abs", "add", "all", "amax", "amin", "any", "arange", "argmax",
    "argmin", "as_tensor", "autograd", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "bool", "cat",
    "clone", "core", "cos", "data", "ddp", "default_generator", "device", "distributed", "div", "double", "dtype",
    "empty", "empty_like", "enable_grad", "eq", "exp", "eye", "flatten", "float", "float16", "float32", "float64",
    "floor_divide", "from_numpy", "full", "full_like", "ge", "get_default_dtype", "gt", "half", "initial_seed", "int",
    "int16", "int32", "int64", "int8", "is_grad_enabled", "isfinite", "isinf", "isnan", "le", "linspace", "load_file",
    "log", "log_softmax", "logical_and", "logical_not", "logical_or", "logsumexp", "long", "lt", "manual_seed",
    "matmul", "max", "maximum", "mean", "min", "minimum", "mul", "ne", "neg", "nn", "no_grad", "ones", "ones_like",
    "optim", "permute", "pow", "prod", "rand", "rand_like", "randint", "randn", "randn_like", "randperm", "relu",
    "remainder", "reshape", "rsub", "save_file", "seed", "set_default_dtype", "set_grad_enabled", "set_printoptions",
    "short", "sigmoid", "sign", "sin", "softmax", "sqrt", "squeeze", "stack", "std", "sub", "sum", "t", "tanh",
    "tensor", "transpose", "uint8", "unsqueeze", "var", "where", "zeros", "zeros_like",
]
# fmt: on

# PyTorch's module names, so that `import mpigrad.nn.functional as F` and `import mpigrad.distributed as dist` work
distributed = ddp
for _name, _module in {
    "autograd": autograd,
    "data": data,
    "distributed": ddp,
    "nn": nn,
    "nn.functional": nn.functional,
    "nn.init": nn.init,
    "optim": optim,
}.items():
    sys.modules[f"{__name__}.{_name}"] = _module
