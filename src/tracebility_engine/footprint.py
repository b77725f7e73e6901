"""Gives memory back that starting took: pages of the engine's library that are touched once and never again.

Loading maps some 170 MB of the library, for relocations and start-up code. They are clean copies of a file: the kernel
reads them again should they be needed; without this they count as this process's own for as long as it lives.
"""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_REGION = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (r-[x-]p) .* (/\S.*_chdb\S*\.so)$")
_SMAPS = Path("/proc/self/smaps")


def give_back_library_pages() -> int:
    """Drop the clean pages of the engine's library; the bytes of address space they were dropped from.

    Only regions without a changed page: dropping one that has (relocated data is one) would undo the change.
    """
    if not _SMAPS.exists():
        return 0
    libc = ctypes.CDLL(None)
    dropped = 0
    for start, size in _clean_regions(_SMAPS.read_text()):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED) == 0:
            dropped += size
    return dropped


def _clean_regions(smaps: str) -> Iterator[tuple[int, int]]:
    region: tuple[int, int] | None = None
    for line in smaps.splitlines():
        if found := _REGION.match(line):
            start, end = int(found[1], 16), int(found[2], 16)
            region = start, end - start
        elif "-" in line.split(" ", 1)[0]:
            region = None
        elif region is not None and line.startswith("Anonymous:"):
            if line.split()[1] == "0":
                yield region
            region = None
