"""Memory of long CPU runs."""

import ctypes
import sys

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets the process keep what it frees, for the next tensor of that size.

    By default glibc gives every large block back to the system, so that each feature map's pages
    are mapped and cleared anew, batch after batch: on a CPU that takes longer than the network.
    Affects the whole process, hence called by command lines, never on import.

    Returns:
        Whether it could be set (glibc only).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, 2**28))
    return all(mallopt(name, value) == 1 for name, value in settings)
