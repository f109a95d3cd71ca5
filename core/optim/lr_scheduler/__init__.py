"""Learning rates over time, with PyTorch's names. `scheduler.step()` follows `optimizer.step()`.

What a scheduler remembers is in its attributes, under PyTorch's names: state dicts move between the two libraries.
"""

from .base import *
from .cosine import *
from .cycles import *
from .factors import *
from .plateau import *
from .several import *
