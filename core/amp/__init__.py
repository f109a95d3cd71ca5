"""Mixed precision: autocast and GradScaler."""

from .autocast_mode import *
from .grad_scaler import *
