"""Automatic differentiation: the tape that ops record, the backward pass over it, and what users build on both."""

from . import checkpoint as checkpoint
from .anomaly import *
from .engine import *
from .function import *
from .grad_mode import *
from .gradcheck import *
from .tape import *
