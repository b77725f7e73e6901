"""The envelope: one accepted request, or a part of it, on its way from the edge to the worker.

It carries the tenant (org, workspace, project), the accept time, and the body as the client sent it. The queue, rows,
metering and dead letters recognise duplicates by its id. A stream entry has two fields: ``h``, the header as msgpack,
and ``b``, the body.
"""

from collections.abc import Mapping
from uuid import UUID

import msgspec
from msgspec import structs

from tracebility.ids import SENTINEL

VERSION = 1


class MalformedEnvelope(ValueError):
    """The bytes are not an envelope, or one of an unknown version."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """All of an envelope except its body.

    ``accepted_at_us`` (Unix microseconds) and ``period`` (``YYYY-MM``, UTC) are set once, at accept. Computed again
    later, they could put a redelivered row into another partition.
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
    items: int  # number of accepted items in the body, without those in `rejected`
    bytes: int  # size of the body after decompression
    rejected: tuple[int, ...] = ()  # positions in the body of items that the edge rejected and the worker skips
    degraded: bool = False  # admitted while the usage of its org was unknown
    epoch: int = 0  # of the shard map that the envelope was routed by; for diagnosis
    v: int = VERSION


class Envelope(msgspec.Struct, frozen=True):
    """A header and its body."""

    header: Header
    body: bytes

    def routed(self, epoch: int) -> "Envelope":
        """The same envelope with this epoch of the shard map."""
        return self if epoch == self.header.epoch else Envelope(structs.replace(self.header, epoch=epoch), self.body)

    def fields(self) -> dict[str, bytes]:
        """The fields of the stream entry."""
        return {"h": _encode(self.header), "b": self.body}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def from_fields(fields: Mapping[bytes, bytes]) -> Envelope:
    """Decode the envelope in a stream entry.

    Raises:
        MalformedEnvelope: when the fields are not an envelope, or its version is unknown.
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


def header_of(encoded: bytes) -> Header:
    """Decode the header, the field ``h``.

    Raises:
        MalformedEnvelope: when it is unreadable.
    """
    try:
        return _decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedEnvelope(f"not an envelope: {error}") from error
