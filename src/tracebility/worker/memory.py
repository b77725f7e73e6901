"""Keeps memory management out of the way of batches: freed pages are kept, and circles looked for between them.

To take 40 MB anew costs a microsecond a span and copy; to look through a batch's rows, which hold no circles, a few.
"""

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def look_for_circles_only_when_asked() -> None:
    """Turn the collector off, and spare it what was loaded so far. Who calls this calls `look_for_circles` at times."""
    gc.disable()
    gc.freeze()


def look_for_circles() -> None:
    """Free what is only held by circles: failed requests and cancelled tasks leave some."""
    gc.collect()


def keep_freed_pages() -> None:
    """Serve large blocks from the heap, and do not shrink it after each."""
    library = _library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def give_back_freed_pages() -> None:
    """Return what is free to the system: for when there is nothing to do."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """glibc, where this runs on it."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
