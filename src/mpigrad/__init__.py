"""mpigrad: PyTorch-shaped tensors, autograd and neural networks on NumPy and CuPy, trained data-parallel over MPI."""

import sys
from math import e as e
from math import inf as inf
from math import nan as nan
from math import pi as pi

from . import core as core
from . import ddp as ddp
from .core import amp as amp
from .core import autograd as autograd
from .core import cuda as cuda
from .core import data as data
from .core import linalg as linalg
from .core import nn as nn
from .core import optim as optim
from .core import return_types as return_types
from .core import utils as utils
from .core.amp.autocast_mode import *
from .core.autograd import enable_grad as enable_grad
from .core.autograd import inference_mode as inference_mode
from .core.autograd import is_anomaly_check_nan_enabled as is_anomaly_check_nan_enabled
from .core.autograd import is_anomaly_enabled as is_anomaly_enabled
from .core.autograd import is_grad_enabled as is_grad_enabled
from .core.autograd import is_inference_mode_enabled as is_inference_mode_enabled
from .core.autograd import no_grad as no_grad
from .core.autograd import set_grad_enabled as set_grad_enabled
from .core.backend import device as device
from .core.creation import *
from .core.dlpack import *
from .core.dtypes import *
from .core.generator import *
from .core.legacy import *
from .core.ops import special as special
from .core.ops.activation import celu as celu
from .core.ops.activation import celu_ as celu_
from .core.ops.activation import hardshrink as hardshrink
from .core.ops.activation import prelu as prelu
from .core.ops.activation import relu_ as relu_
from .core.ops.activation import rrelu as rrelu
from .core.ops.activation import rrelu_ as rrelu_
from .core.ops.activation import selu as selu
from .core.ops.activation import selu_ as selu_
from .core.ops.activation import threshold as threshold
from .core.ops.activation import threshold_ as threshold_
from .core.ops.compare import *
from .core.ops.contraction import *
from .core.ops.conv import *
from .core.ops.decomposition import *
from .core.ops.distance import bilinear as bilinear
from .core.ops.distance import cdist as cdist
from .core.ops.distance import cosine_similarity as cosine_similarity
from .core.ops.distance import pairwise_distance as pairwise_distance
from .core.ops.dropout import dropout as dropout
from .core.ops.elementwise import *
from .core.ops.extremes import *
from .core.ops.gather import *
from .core.ops.index import *
from .core.ops.join import *
from .core.ops.linalg import *
from .core.ops.norm import group_norm as group_norm
from .core.ops.norm import layer_norm as layer_norm
from .core.ops.norm import rms_norm as rms_norm
from .core.ops.pointwise import *
from .core.ops.pool import adaptive_avg_pool1d as adaptive_avg_pool1d
from .core.ops.pool import avg_pool1d as avg_pool1d
from .core.ops.pool import max_pool1d as max_pool1d
from .core.ops.pool import max_pool2d as max_pool2d
from .core.ops.pool import max_pool3d as max_pool3d
from .core.ops.rearrange import *
from .core.ops.reduce import *
from .core.ops.resample import channel_shuffle as channel_shuffle
from .core.ops.resample import pixel_shuffle as pixel_shuffle
from .core.ops.resample import pixel_unshuffle as pixel_unshuffle
from .core.ops.scan import *
from .core.ops.shape import *
from .core.ops.slices import *
from .core.ops.sort import *
from .core.ops.special import *
from .core.ops.statistics import *
from .core.ops.vectornorm import *
from .core.printing import set_printoptions as set_printoptions
from .core.serialization import *
from .core.tensor import Parameter as Parameter
from .core.tensor import Tensor as Tensor

core.arguments.publish(globals(), __name__)
core.arguments.publish(vars(linalg), linalg.__name__)
core.arguments.publish(vars(special), special.__name__)

__version__ = "0.1.0"

half, float, double = float16, float32, float64
short, int, long = int16, int32, int64
bool = bool_
newaxis = None

# PyTorch's module names, so that `import mpigrad.nn.functional as F` and `import mpigrad.distributed as dist` work;
# also of every module below them, or Python would load it a second time under that name
distributed, random = ddp, core.generator
nn.SyncBatchNorm = ddp.SyncBatchNorm  # type: ignore[attr-defined]  # a module that knows of ranks
_MODULES = ("amp", "autograd", "cuda", "data", "linalg", "nn", "optim", "return_types", "utils")
_NAMES = [(f"core.{name}", name) for name in _MODULES]
_NAMES += [
    ("ddp", "distributed"),
    ("core.generator", "random"),
    ("core.ops.special", "special"),
    ("core.data", "utils.data"),
    ("core.dlpack", "utils.dlpack"),
    ("core.autograd.checkpoint", "utils.checkpoint"),
]
for _old, _new in _NAMES:
    for _name, _module in list(sys.modules.items()):
        if f"{_name}.".startswith(f"{__name__}.{_old}."):
            sys.modules[_name.replace(_old, _new, 1)] = _module
