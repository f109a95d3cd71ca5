"""The same computations as the modules, as functions."""

from __future__ import annotations

from ..arguments import publish
from ..ops.activation import *
from ..ops.attention import *
from ..ops.classes import *
from ..ops.conv import *
from ..ops.ctc import *
from ..ops.distance import *
from ..ops.dropout import *
from ..ops.elementwise import sigmoid as sigmoid
from ..ops.elementwise import tanh as tanh
from ..ops.embedding import *
from ..ops.interpolate import *
from ..ops.linalg import linear as linear
from ..ops.loss import *
from ..ops.multihead import *
from ..ops.norm import *
from ..ops.pad import *
from ..ops.pool import *
from ..ops.reduce import log_softmax as log_softmax
from ..ops.reduce import softmax as softmax
from ..ops.resample import *
from ..ops.sample import *
from ..ops.windows import *

publish(globals(), __name__)
