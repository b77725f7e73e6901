"""Tunes memory management for batches: freed pages are kept, and garbage is collected between batches.

Requesting 40 MB from the system costs a microsecond per span and copy. Scanning the rows of a batch for reference
cycles, which they never have, costs several.
"""

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


def disable_automatic_gc() -> None:
    """Disable the garbage collector and exempt all loaded objects. The caller must call `collect_garbage` at times."""
    gc.disable()
    gc.freeze()


def collect_garbage() -> None:
    """Free reference cycles, which failed requests and cancelled tasks leave."""
    gc.collect()


def keep_freed_pages() -> None:
    """Allocate large blocks on the heap, and do not shrink it after each."""
    library = _library()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)


def give_back_freed_pages() -> None:
    """Return free pages to the system; call it when idle."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """Return glibc; None on other systems."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
