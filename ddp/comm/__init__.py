"""Transports: how the ranks of a job reach each other."""

from .protocol import CollectiveTimeout, Communicator, RanksDiffer, Work
from .single import SingleCommunicator

__all__ = ["CollectiveTimeout", "Communicator", "RanksDiffer", "SingleCommunicator", "Work"]
