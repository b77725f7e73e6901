"""A request's body, decoded and whole: in memory while there is room, else in a file, and only then handed on.

The engine is not given the first byte of an insert before the last has arrived, so a client that leaves in the middle,
or whose compressed body is torn, leaves nothing behind.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tracebility_engine.codecs import Decoder
from tracebility_engine.engine import EngineError

_MIB = 1 << 20
# One insert of the worker is about 10 MB; larger bodies wait in a file.
MAX_BODY_IN_MEMORY_BYTES = 48 * _MIB
# All bodies that wait or are being inserted, together.
MAX_BODIES_IN_MEMORY_BYTES = 192 * _MIB
MAX_BODY_BYTES = 8 << 30
_PIECE_BYTES = 4 * _MIB
QUERY_IS_TOO_LARGE = 307


class Room:
    """The memory that bodies share."""

    def __init__(self, limit: int = MAX_BODIES_IN_MEMORY_BYTES) -> None:
        self._left = limit

    def take(self, size: int) -> bool:
        """Reserve ``size`` bytes if they are free."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        self._left += size


class Body:
    """Collects a body. Close it when the request is over."""

    def __init__(self, room: Room, folder: Path, decoder: Decoder | None) -> None:
        self._room = room
        self._folder = folder
        self._decoder = decoder
        self._parts: list[bytes] = []
        self._file: IO[Any] | None = None
        self._taken = 0
        self.size = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if self._decoder is not None:
            data = self._decoder.feed(data)
        if not data:
            return
        self.size += len(data)
        if self.size > MAX_BODY_BYTES:
            raise EngineError(
                QUERY_IS_TOO_LARGE,
                f"Code: {QUERY_IS_TOO_LARGE}. DB::Exception: The body is larger than {MAX_BODY_BYTES} bytes.",
            )
        if self._file is None and self.size <= MAX_BODY_IN_MEMORY_BYTES and self._room.take(len(data)):
            self._taken += len(data)
            self._parts.append(data)
            return
        if self._file is None:
            self._move_to_file()
        assert self._file is not None
        self._file.write(data)

    def finish(self) -> None:
        """The client has sent everything.

        Raises:
            EngineError: a compressed body ended inside a frame.
        """
        if self._decoder is not None:
            self._decoder.finish()

    def head(self, size: int) -> bytes:
        """The first bytes."""
        if self._file is not None:
            self._file.seek(0)
            return bytes(self._file.read(size))
        parts: list[bytes] = []
        for part in self._parts:
            parts.append(part[:size])
            size -= len(parts[-1])
            if size <= 0:
                break
        return b"".join(parts)

    def pieces(self, skip: int) -> Iterator[bytes]:
        """The body from byte ``skip`` on: in one piece from memory, which is what the engine reads fastest."""
        if self._file is not None:
            self._file.seek(skip)
            while piece := self._file.read(_PIECE_BYTES):
                yield piece
            return
        parts = self._parts
        at = 0
        while at < len(parts) and skip >= len(parts[at]):
            skip -= len(parts[at])
            at += 1
        if at < len(parts):
            yield b"".join([parts[at][skip:], *parts[at + 1 :]])

    def close(self) -> None:
        """Release the memory and the file."""
        self._parts = []
        self._room.give_back(self._taken)
        self._taken = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def _move_to_file(self) -> None:
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed in close()
        self._file.writelines(self._parts)
        self._parts = []
        self._room.give_back(self._taken)
        self._taken = 0
