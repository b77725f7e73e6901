"""The records of the disk buffer: a crash at any byte, or a damaged byte, loses that record and no other.

``magic | length | crc32 | epoch | org | payload``. The checksum starts from a nonce in the segment's name, which no
client knows: no bytes that a client sends can pass for a record when the reader searches for the next good one.
"""

import os
import struct
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from tracebility.wire.envelope import Header, MalformedEnvelope, header_of

MAGIC = b"TBR1"
_HEAD = struct.Struct("<4sIIQ16s")
_CHECKED = struct.Struct("<IQ16s")
_LENGTH = struct.Struct("<I")
HEAD_BYTES = _HEAD.size

# An envelope is 1 MiB, or one item of 10 MiB with its resource and scope.
PAYLOAD_BYTES = 128 << 20
_SEARCH_BYTES = 1 << 20


class Record(NamedTuple):
    """One stored envelope: its org and its stream fields."""

    epoch: int
    org: bytes
    fields: dict[str, bytes]
    size: int


@dataclass(slots=True)
class Read:
    """Records of a segment from an offset on, and the offset of the next ones."""

    next_offset: int
    records: list[Record] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)
    torn_bytes: int = 0


def encode(nonce: int, epoch: int, org: bytes, fields: dict[str, bytes]) -> bytes:
    """A record as it is written."""
    header, body = fields["h"], fields["b"]
    payload = b"".join((_LENGTH.pack(len(header)), header, body))
    return _HEAD.pack(MAGIC, len(payload), _sum(nonce, epoch, org, payload), epoch, org) + payload


def size_of(fields: dict[str, bytes]) -> int:
    """How many bytes `encode` makes of ``fields``."""
    return HEAD_BYTES + _LENGTH.size + len(fields["h"]) + len(fields["b"])


def read(fd: int, size: int, nonce: int, offset: int, most_bytes: int) -> Read:
    """Records of the first ``size`` bytes of ``fd`` from ``offset`` on: about ``most_bytes``, at least one.

    Damaged bytes are skipped up to the next good record; a record cut off at the end is torn.
    """
    found = Read(offset)
    while found.next_offset < size and found.next_offset - offset < most_bytes:
        record = _record_at(fd, size, nonce, found.next_offset)
        if record is not None:
            found.records.append(record)
            found.next_offset += record.size
            continue
        following = _search(fd, size, nonce, found.next_offset + 1)
        if following == size and not _is_whole(fd, size, found.next_offset):
            found.torn_bytes += size - found.next_offset
        else:
            found.damaged.append((found.next_offset, following))
        found.next_offset = following
    return found


def header(fields: dict[str, bytes]) -> Header | None:
    """The envelope header of a record; None when it is unreadable."""
    try:
        return header_of(fields["h"])
    except (KeyError, MalformedEnvelope):
        return None


def first_stamp(fd: int, size: int, nonce: int) -> int | None:
    """When the first good record of a segment was accepted; None without one, or when its header is unreadable.

    Records are written in the order of their stamps, but for the edge's deadlines.
    """
    offset = 0
    while offset < size:
        found = read(fd, size, nonce, offset, 1)
        if found.records:
            said = header(found.records[0].fields)
            return None if said is None else said.accepted_at_us
        offset = found.next_offset
    return None


def owners(fd: int, size: int) -> dict[bytes, int]:
    """Bytes per org in a segment, read from the record heads alone, up to the first damaged one."""
    held: dict[bytes, int] = {}
    offset = 0
    while offset + HEAD_BYTES <= size:
        magic, length, _, _, org = _HEAD.unpack(os.pread(fd, HEAD_BYTES, offset))
        end = offset + HEAD_BYTES + length
        if magic != MAGIC or end > size:
            break
        held[org] = held.get(org, 0) + end - offset
        offset = end
    return held


def _record_at(fd: int, size: int, nonce: int, offset: int) -> Record | None:
    if not _is_whole(fd, size, offset):
        return None
    _, length, checksum, epoch, org = _HEAD.unpack(os.pread(fd, HEAD_BYTES, offset))
    payload = os.pread(fd, length, offset + HEAD_BYTES)
    if len(payload) != length or _sum(nonce, epoch, org, payload) != checksum:
        return None
    (header_length,) = _LENGTH.unpack_from(payload)
    body_at = _LENGTH.size + header_length
    return Record(epoch, org, {"h": payload[_LENGTH.size : body_at], "b": payload[body_at:]}, HEAD_BYTES + length)


def _is_whole(fd: int, size: int, offset: int) -> bool:
    """Whether there is a head at ``offset`` whose record ends within the segment."""
    if offset + HEAD_BYTES > size:
        return False
    head = os.pread(fd, HEAD_BYTES, offset)
    if len(head) < HEAD_BYTES:
        return False
    magic, length, *_ = _HEAD.unpack(head)
    return bool(magic == MAGIC and _LENGTH.size <= length <= PAYLOAD_BYTES and offset + HEAD_BYTES + length <= size)


def _search(fd: int, size: int, nonce: int, offset: int) -> int:
    """The offset of the next good record; ``size`` when there is none."""
    while offset < size:
        window = os.pread(fd, min(_SEARCH_BYTES, size - offset), offset)
        if len(window) < len(MAGIC):
            break
        at = window.find(MAGIC)
        while at >= 0:
            if _record_at(fd, size, nonce, offset + at) is not None:
                return offset + at
            at = window.find(MAGIC, at + 1)
        offset += len(window) - len(MAGIC) + 1
    return size


def _sum(nonce: int, epoch: int, org: bytes, payload: bytes) -> int:
    return crc32(payload, crc32(_CHECKED.pack(len(payload), epoch, org), nonce))
