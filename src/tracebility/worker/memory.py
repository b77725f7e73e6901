"""Keeps memory management out of the way of batches: freed pages are kept, and cycles are collected between batches.

To allocate 40 MB from the system costs a microsecond a span; to scan a batch's objects, which have no cycles, a few.
"""

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def disable_automatic_collection() -> None:
    """Turn the cycle collector off, and exempt what is loaded so far. The caller calls `collect_cycles` at times."""
    gc.disable()
    gc.freeze()


def collect_cycles() -> None:
    """Free cycles of objects: failed requests and cancelled tasks leave some."""
    gc.collect()


def keep_freed_pages() -> None:
    """Serve large blocks from the heap, and do not shrink it after each."""
    library = _library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def release_freed_pages() -> None:
    """Return freed pages to the system, when there is nothing to do."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """glibc, where this runs on it."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
