"""The envelope: what one accepted request is on its way from the edge to the worker.

It carries the tenant tuple, what was stamped at accept, and the body exactly as the client sent it. Its id is the unit
of idempotency everywhere: queue, rows, metering, dead letters. On a stream it is two fields: ``h``, the header as
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
    """Everything about an envelope but its body.

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
    items: int  # accepted items in the body, those in `rejected` not counted
    bytes: int  # size of the body after decompression
    rejected: tuple[int, ...] = ()  # positions in the body of items the edge refused; the worker passes over them
    degraded: bool = False  # let in while its org's usage was unknown
    epoch: int = 0  # of the shard map that it was routed by; for people who ask why it is where it is
    v: int = VERSION


class Envelope(msgspec.Struct, frozen=True):
    """A header and the body it speaks of."""

    header: Header
    body: bytes

    def routed(self, epoch: int) -> "Envelope":
        """The same, routed by this epoch of the shard map."""
        return self if epoch == self.header.epoch else Envelope(structs.replace(self.header, epoch=epoch), self.body)

    def fields(self) -> dict[str, bytes]:
        """As stream fields."""
        return {"h": _encode(self.header), "b": self.body}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def from_fields(fields: Mapping[bytes, bytes]) -> Envelope:
    """The envelope that ``fields`` of a stream entry hold.

    Raises:
        MalformedEnvelope: when they hold none, or one of a later version.
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
    """The header that a field holds.

    Raises:
        MalformedEnvelope: when it holds none.
    """
    try:
        return _decode(said)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedEnvelope(f"not an envelope: {error}") from error
