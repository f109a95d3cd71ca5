"""Mixed precision: GradScaler."""

from .grad_scaler import *
