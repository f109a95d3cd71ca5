"""Files in /dev/shm that the MPI library has opened: they stay behind unless MPI ends in order."""

import re
from pathlib import Path

_SEGMENT = re.compile(r"/dev/shm/(?:mpich_shm_|sm_segment\.|vader_segment\.|Intel_MPI_)[^/\s]+")


def segments() -> list[str]:
    """The paths of those that this process has mapped."""
    try:
        return list(dict.fromkeys(_SEGMENT.findall(Path("/proc/self/maps").read_text())))
    except OSError:  # no Linux
        return []
