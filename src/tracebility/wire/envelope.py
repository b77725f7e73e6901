"""The envelope: one accepted request, or a part of it, between the edge and the worker.

It carries the tenant tuple, the time of acceptance, and the body as the client sent it. Its id is the unit of
idempotency everywhere: queue, rows, metering, dead letters. A stream entry has two fields: ``h``, the header as
msgpack, and ``b``, the body.
"""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from msgspec import structs

from tracebility.ids import SENTINEL

VERSION = 1


class MalformedEnvelope(ValueError):
    """The bytes are not an envelope of a version this program reads."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of an envelope except its body.

    ``accepted_at_us`` (Unix microseconds, UTC) and ``period`` (``YYYY-MM``) are stamped once, at accept: a date derived
    again later could put a redelivered row into another partition.
    """

    id: UUID
    org_id: UUID
    workspace_id: UUID
    project_id: UUID
    key_id: str
    accepted_at_us: int
    period: str
    source: str  # "otlp" | "native"
    content_type: str  # "protobuf" | "json"
    content_encoding: str  # "identity" | "gzip" | "deflate" | "zstd"
    items: int  # accepted items in the body, without those in `rejected`
    bytes: int  # size of the body after decompression
    rejected: tuple[int, ...] = ()  # positions in the body of items that the edge rejected and the worker skips
    degraded: bool = False  # admitted while the usage of its org was unknown
    epoch: int = 0  # of the shard map that routed it; for diagnosis
    v: int = VERSION


class Envelope(msgspec.Struct, frozen=True):
    """A header and its body."""

    header: Header
    body: bytes

    def routed(self, epoch: int) -> "Envelope":
        """The same envelope, routed by this epoch of the shard map."""
        return self if epoch == self.header.epoch else Envelope(structs.replace(self.header, epoch=epoch), self.body)

    def fields(self) -> dict[str, bytes]:
        """The fields of its stream entry."""
        return {"h": _encode(self.header), "b": self.body}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def from_fields(fields: Mapping[bytes, bytes]) -> Envelope:
    """The envelope in the ``fields`` of a stream entry.

    Raises:
        MalformedEnvelope: when there is none, or one of another version.
    """
    try:
        header = header_of(fields[b"h"])
        body = fields[b"b"]
    except KeyError as error:
        raise MalformedEnvelope(f"not an envelope: it has no field {error}") from error
    if header.v != VERSION:
        raise MalformedEnvelope(f"envelope version {header.v}, this program reads {VERSION}")
    if header.org_id.int == 0 or (header.org_id == SENTINEL):
        raise MalformedEnvelope("envelope without a tenant")
    return Envelope(header, body)


def header_of(said: bytes) -> Header:
    """The header in the field ``h``.

    Raises:
        MalformedEnvelope: when it is unreadable.
    """
    try:
        return _decode(said)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedEnvelope(f"not an envelope: {error}") from error
