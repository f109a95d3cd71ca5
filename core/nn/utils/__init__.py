"""What is done to the parameters of a model and to batches of sequences, with PyTorch's names."""

from . import parametrizations as parametrizations
from . import parametrize as parametrize
from . import rnn as rnn
from .clip_grad import *
from .convert_parameters import *
from .init import *
from .weight_norm import *
