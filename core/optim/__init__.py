"""Optimizers, with PyTorch's names, over flat memory."""

from . import lr_scheduler as lr_scheduler
from . import swa_utils as swa_utils
from .adafactor import *
from .adam import *
from .adaptive import *
from .lbfgs import *
from .optimizer import *
from .sgd import *
