"""A connection before there is a request: bounded in bytes and time, refused in the words of every refusal."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tracebility.wire import limits

GOOD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/runs HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
async def connection(edge: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    yield reader, writer
    writer.close()


async def answers(reader: asyncio.StreamReader) -> list[tuple[int, str, bytes]]:
    """Status, content type and body of all that comes until the server closes."""
    found = []
    async with asyncio.timeout(20):
        while head := await reader.readline():
            headers = {}
            while (line := (await reader.readline()).strip()) != b"":
                name, _, value = line.partition(b": ")
                headers[name] = value
            body = await reader.readexactly(int(headers[b"content-length"]))
            found.append((int(head.split()[1]), headers[b"content-type"].decode(), body))
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
        POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        "GET /v1/projéts HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
    ],
)
async def test_what_is_no_http_is_refused_as_a_problem(connection: Any, sent: bytes) -> None:
    reader, writer = connection
    writer.write(sent)
    [(status, content_type, body)] = await answers(reader)
    document = json.loads(body)
    assert (status, content_type) == (400, "application/problem+json") or status == 401
    assert document["type"].endswith(("bad-request", "unauthenticated"))


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 100_000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * (limits.HEAD_BYTES + 1) + b"\r\n\r\n",
        b"GET /" + b"a" * (1 << 20),
    ],
    ids=["one header", "many", "whole", "address"],
)
async def test_a_head_is_bounded(connection: Any, sent: bytes) -> None:
    reader, writer = connection
    writer.write(GOOD + sent)
    try:
        found = await answers(reader)
    except ConnectionResetError:  # what was sent beyond the bound was not read
        return
    assert [one[0] for one in found] in ([200], [200, 431])


async def test_a_head_beyond_the_bound_is_told(connection: Any) -> None:
    reader, writer = connection
    writer.write(b"GET / HTTP/1.1\r\nx: " + b"a" * limits.HEAD_BYTES)
    [(status, content_type, body)] = await answers(reader)
    assert (status, content_type) == (431, "application/problem+json")
    assert json.loads(body)["type"] == "urn:tracebility:error:head-too-large"


@pytest.mark.parametrize(("sent", "told"), [(b"", []), (b"GET / HT", [408]), (GOOD + b"GET", [200, 408])])
async def test_a_head_that_does_not_come_ends_the_connection(
    edge: Any, monkeypatch: pytest.MonkeyPatch, sent: bytes, told: list[int]
) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(sent)
    assert [one[0] for one in await answers(reader)] == told
    writer.close()


async def test_requests_in_a_row_are_answered_in_a_row(connection: Any) -> None:
    reader, writer = connection
    writer.write(GOOD * 3 + POST + b"content-length: 0\r\n\r\n" + b"BREW\r\n\r\n")
    assert [one[0] for one in await answers(reader)][:4] == [200, 200, 200, 401]
