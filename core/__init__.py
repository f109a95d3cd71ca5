"""The engine: tensors, autograd, networks, optimizers and data on NumPy and CuPy. Knows nothing of MPI or ranks."""

if __name__ == "core":
    raise ImportError("this folder is the package mpigrad.core: import mpigrad")
