"""An envelope survives its journey through a stream, and nothing else passes for one."""

from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebility.ids import SENTINEL
from tracebility.wire.envelope import Envelope, Header, MalformedEnvelope, from_fields

headers = st.builds(
    Header,
    id=st.uuids(),
    org_id=st.uuids().filter(lambda org: org.int not in (0, SENTINEL.int)),
    workspace_id=st.uuids(),
    project_id=st.uuids(),
    key_id=st.text(),
    accepted_at_us=st.integers(0, 2**53),
    period=st.from_regex(r"20[0-9]{2}-[01][0-9]", fullmatch=True),
    source=st.sampled_from(["otlp", "native"]),
    content_type=st.sampled_from(["protobuf", "json"]),
    content_encoding=st.sampled_from(["identity", "gzip", "deflate", "zstd"]),
    items=st.integers(0, 2**31),
    bytes=st.integers(0, 2**31),
    rejected=st.lists(st.integers(0, 2**31)).map(tuple),
)


def on_a_stream(envelope: Envelope) -> dict[bytes, bytes]:
    return {name.encode(): value for name, value in envelope.fields().items()}


@given(headers, st.binary())
def test_what_goes_in_comes_out(header: Header, body: bytes) -> None:
    envelope = Envelope(header, body)
    assert from_fields(on_a_stream(envelope)) == envelope


@given(st.dictionaries(st.sampled_from([b"h", b"b", b"d"]), st.binary()))
def test_other_fields_are_told_apart(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(MalformedEnvelope):
        from_fields(fields)


@given(headers, st.data())
def test_a_damaged_header_is_told_apart_or_reads_as_another(header: Header, data: st.DataObject) -> None:
    fields = on_a_stream(Envelope(header, b""))
    place = data.draw(st.integers(0, len(fields[b"h"]) - 1))
    damaged = bytearray(fields[b"h"])
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        from_fields({**fields, b"h": bytes(damaged)})
    except MalformedEnvelope:
        return


@pytest.mark.parametrize("change", [{"org_id": UUID(int=0)}, {"org_id": SENTINEL}, {"v": 2}])
def test_no_tenant_and_a_later_version_are_refused(change: dict[str, object]) -> None:
    header = Header(
        id=uuid4(),
        org_id=uuid4(),
        workspace_id=uuid4(),
        project_id=uuid4(),
        key_id="k",
        accepted_at_us=1,
        period="2026-01",
        source="otlp",
        content_type="protobuf",
        content_encoding="identity",
        items=1,
        bytes=1,
    )
    changed = msgspec.structs.replace(header, **change)
    with pytest.raises(MalformedEnvelope):
        from_fields(on_a_stream(Envelope(changed, b"")))
