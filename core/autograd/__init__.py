"""Automatic differentiation: the tape that ops record, the backward pass over it, and what users build on both."""

from .engine import *
from .grad_mode import *
from .tape import *
