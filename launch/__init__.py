if __name__ == "launch":
    raise ImportError("this folder is the package mpigrad.launch: import mpigrad")
