"""Transports: how the ranks of a job reach each other."""

from .protocol import CollectiveTimeout, Communicator, Work
from .single import SingleCommunicator

__all__ = ["CollectiveTimeout", "Communicator", "SingleCommunicator", "Work"]
