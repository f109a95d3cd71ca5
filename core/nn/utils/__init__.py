"""Functions around modules."""

from . import rnn as rnn
