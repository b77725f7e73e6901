"""What cannot be kept is refused in words, at once, and costs nobody else anything."""

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from google.rpc.status_pb2 import Status

from tracebility.ingest import accept
from tracebility.ingest.body import Budget
from tracebility.tenant import keys
from tracebility.tenant.context import Scope
from tracebility.wire import limits
from tracebility.wire.protocols import PROTOCOLS

PROTOBUF, JSON = "application/x-protobuf", "application/json"
RUN = json.dumps({"id": str(uuid4()), "name": "n", "kind": "llm", "start_time": "2026-01-31T12:00:00Z"}).encode()

ROUTES = [protocol.routes[0].path for protocol in PROTOCOLS]

BAD_BODIES = [
    ("/v1/traces", PROTOBUF, "", b"not protobuf", 400),
    ("/v1/traces", PROTOBUF, "", b"\x0a\xff\xff\xff\xff\x0f", 400),
    ("/v1/traces", PROTOBUF, "gzip", b"not gzip", 400),
    ("/v1/traces", PROTOBUF, "gzip", gzip.compress(b"x" * 100, mtime=0)[:-9], 400),
    ("/v1/traces", PROTOBUF, "br", b"", 415),
    ("/v1/traces", PROTOBUF, "gzip, gzip", b"", 415),
    ("/v1/traces", "text/plain", "", b"", 415),
    ("/v1/traces", "", "", b"", 415),
    ("/v1/traces", JSON, "", b"", 400),
    ("/v1/traces", JSON, "", b"null", 400),
    ("/v1/traces", JSON, "", b"{", 400),
    ("/v1/traces", JSON, "", b"[" * 100_000, 400),
    ("/v1/traces", JSON, "", b'{"resourceSpans": 3}', 400),
    ("/v1/traces", PROTOBUF, "gzip", gzip.compress(bytes(101 << 20), mtime=0), 413),
    ("/v1/runs", JSON, "", b"null", 400),
    ("/v1/runs", JSON, "", b"3", 400),
    ("/v1/runs", JSON, "", b'"text"', 400),
    ("/v1/runs", JSON, "", b"[]", 400),
    ("/v1/runs", JSON, "", b'{"a": NaN}', 400),
    ("/v1/runs", JSON, "", b'{"a":' * 100_000, 400),
    ("/v1/runs", JSON, "", b"\xff\xfe", 400),
    ("/v1/runs", PROTOBUF, "", b"", 415),
    ("/v1/runs", JSON, "zstd", b"\x28\xb5\x2f\xfd", 400),
    ("/v1/runs", JSON, "", b" " * ((20 << 20) + 1), 413),
]


@pytest.mark.parametrize(
    ("route", "content_type", "content_encoding", "body", "status"),
    BAD_BODIES,
    ids=lambda value: repr(value)[:30],
)
async def test_a_bad_body_is_refused_in_words_and_the_next_request_served(
    edge: Any, tenant: Any, route: str, content_type: str, content_encoding: str, body: bytes, status: int
) -> None:
    headers = tenant.headers | {"content-type": content_type, "content-encoding": content_encoding}
    answer = await edge.client.post(
        route, content=body, headers={name: value for name, value in headers.items() if value}
    )
    if content_type == PROTOBUF and route == "/v1/traces":
        # As OTLP says: a google.rpc.Status in the encoding of the request.
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
        told = Status.FromString(answer.content)
        assert (told.code, not told.details) == (3, True)
        assert told.message.startswith("The request") or "not understood" in told.message
    else:
        problem = answer.json()
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert problem["status"] == status
        assert problem["detail"]
        assert problem["hint"]
    assert (await edge.runs(tenant, RUN)).status_code == 202
    assert len(await tenant.envelopes()) == 1


async def test_every_bad_key_gets_the_same_answer(edge: Any, tenant: Any, control: Any) -> None:
    revoked, stranger = keys.generate(), keys.generate()
    await control.execute(
        "insert_key",
        revoked.public_id,
        tenant.org_id,
        tenant.workspace_id,
        tenant.project_id,
        "k",
        revoked.secret_hash,
        [Scope.INGEST_WRITE],
    )
    await control.execute("UPDATE api_key SET revoked_at = now() WHERE public_id = $1", revoked.public_id)
    ways: list[dict[str, Any]] = [
        {},
        {"x-api-key": ""},
        {"x-api-key": "nonsense"},
        {"x-api-key": tenant.key[:-1] + "!"},
        {"x-api-key": revoked.key},
        {"x-api-key": stranger.key},
        {"authorization": "Bearer"},
        {"authorization": f"Token {tenant.key}"},
        {"authorization": b"Bearer \xff\xfe"},
        {"authorization": "Basic w6k6w6k="},
        {"authorization": "x" * 5000},
    ]
    for route in ROUTES:
        answers = [
            await edge.client.post(route, content=b"anything", headers=way | {"x-request-id": "one"}) for way in ways
        ]
        assert {answer.status_code for answer in answers} == {401}
        assert len({answer.content for answer in answers}) == 1
        assert len({tuple(sorted(set(answer.headers) - {"date"})) for answer in answers}) == 1
        assert answers[0].headers["www-authenticate"].startswith("Bearer")


async def test_a_known_key_without_the_scope_is_forbidden(edge: Any, new_tenant: Any) -> None:
    reader = await new_tenant(Scope.READ, Scope.ADMIN)
    answer = await edge.runs(reader, RUN)
    assert answer.status_code == 403
    assert Scope.INGEST_WRITE in answer.json()["detail"]
    assert await reader.envelopes() == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_refused(edge: Any, method: str) -> None:
    for route in ROUTES:
        answer = await edge.client.request(method, route)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


class Connection:
    """A connection on which the test says what is sent when."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> "Connection":
        self._reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, *lines: str) -> None:
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    def begin(self, key: str, length: int) -> None:
        """Send the head of a request whose body, of so many bytes, is yet to come."""
        self.send(
            "POST /v1/runs HTTP/1.1",
            "host: x",
            f"content-length: {length}",
            f"x-api-key: {key}",
            f"content-type: {JSON}",
        )

    async def ended(self) -> bool:
        return await self._reader.read() == b""

    async def status(self) -> int:
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await self._reader.readexactly(int(length.split(b":")[1]))
        return int(head.split()[1])


async def test_a_bad_key_is_refused_before_the_body_is_there(edge: Any) -> None:
    async with Connection(edge.port) as connection:
        connection.send("POST /v1/traces HTTP/1.1", "host: x", "content-length: 10000000", "x-api-key: no")
        assert await connection.status() == 401


async def test_a_declared_size_is_refused_before_the_body_is_there(edge: Any, tenant: Any) -> None:
    async with Connection(edge.port) as connection:
        connection.send(
            "POST /v1/traces HTTP/1.1",
            "host: x",
            f"content-length: {limits.BODY_BYTES + 1}",
            f"x-api-key: {tenant.key}",
            f"content-type: {PROTOBUF}",
        )
        assert await connection.status() == 413


async def test_the_largest_body_is_taken_and_one_byte_more_is_not(
    edge: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undeclared, so that what comes is counted."""
    monkeypatch.setattr(limits, "BODY_BYTES", 300_000)

    async def chunks(size: int) -> AsyncIterator[bytes]:
        whole = RUN + b" " * (size - len(RUN))
        for start in range(0, size, 100_000):
            yield whole[start : start + 100_000]

    assert (await edge.runs(tenant, chunks(300_000))).status_code == 202
    assert (await edge.runs(tenant, chunks(300_001))).status_code == 413


@pytest.mark.parametrize("key", ["none", "valid"])
async def test_a_client_that_goes_on_sending_still_sees_the_answer(edge: Any, tenant: Any, key: str) -> None:
    """A reset in the middle of an upload is what a client retries for ever; it must meet the refusal instead."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(1 << 20)

    headers = {"x-api-key": tenant.key if key == "valid" else key, "content-type": PROTOBUF}
    answer = await edge.client.post("/v1/traces", content=endless(), headers=headers)
    assert answer.status_code == (413 if key == "valid" else 401)
    assert (await edge.runs(tenant, RUN)).status_code == 202


async def test_a_client_that_leaves_in_the_middle_gives_its_memory_back(edge: Any, tenant: Any) -> None:
    async with Connection(edge.port) as connection:
        connection.begin(tenant.key, 5000000)
        connection.writer.write(bytes(1_000_000))
        await connection.writer.drain()
        async with asyncio.timeout(10):
            while not edge.metric("tracebility_ingest_bytes_in_flight"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while edge.metric("tracebility_ingest_bytes_in_flight"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_client_that_is_too_slow_is_told(edge: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    async with Connection(edge.port) as connection:
        connection.begin(tenant.key, 100)
        assert await connection.status() == 400


@pytest.mark.parametrize("steps", [0, 3])
async def test_a_body_that_comes_to_a_halt_is_cut(
    edge: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(limits, "STEP_SECONDS", 0.2)
    async with Connection(edge.port) as connection:
        connection.begin(tenant.key, 1000000)
        for _ in range(steps):
            connection.writer.write(bytes(limits.STEP_BYTES))
            await connection.writer.drain()
        assert await connection.status() == 408
        assert await connection.ended()
    assert not edge.services.budget.held


async def test_stalled_bodies_of_one_org_leave_room_for_others(edge: Any, tenant: Any, new_tenant: Any) -> None:
    other = await new_tenant(Scope.INGEST_WRITE)
    budget: Budget = edge.services.budget
    with budget.lease(tenant.org_id) as lease:
        lease.take(budget.share - 100)
        assert (await edge.runs(tenant, RUN)).status_code == 503
        assert (await edge.runs(other, RUN)).status_code == 202
    assert (await edge.runs(tenant, RUN)).status_code == 202
    assert not budget.held


async def test_too_many_bytes_at_once_are_refused_for_a_moment(run_edge: Any, tenant: Any) -> None:
    async with run_edge() as edge:
        budget: Budget = edge.services.budget
        taken = budget.left - 100
        budget.take(taken)
        answer = await edge.runs(tenant, RUN)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        budget.give_back(taken)
        assert (await edge.runs(tenant, RUN)).status_code == 202


def _spans(*spans: bytes) -> bytes:
    return b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}' % b",".join(spans)


SPAN = json.dumps({"traceId": "11" * 16, "spanId": "22" * 8, "name": "n", "startTimeUnixNano": "1769860800000000000"})


@pytest.mark.parametrize(
    ("body", "encoding", "beside"),
    [
        (_spans(*[SPAN.encode()] * 900), "", False),
        (_spans(*[SPAN.encode()] * 900, b"{}"), "", False),
        (_spans(*[SPAN.encode()] * 900, b'{"name":1}'), "", True),
        (_spans(*[b"{}"] * 30_000), "", True),
        (_spans(*[SPAN.encode()] * 3_000), "", True),
        (_spans(SPAN.encode(), b" " * 200_000 + b"{}"), "gzip", True),
        (json.dumps({"runs": [{}] * 30_000}).encode(), "", True),
    ],
    ids=["good", "one bad", "to be cut", "many bad", "large", "inflated", "native"],
)
async def test_what_takes_long_is_read_beside_the_others(
    edge: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch, body: bytes, encoding: str, beside: bool
) -> None:
    threads: set[int] = set()
    read = accept._read

    def noted(*given: Any) -> Any:
        threads.add(threading.get_ident())
        return read(*given)

    monkeypatch.setattr(accept, "_read", noted)
    if b'"runs"' in body[:20]:
        answer = await edge.runs(tenant, body)
    else:
        sent = gzip.compress(body) if encoding else body
        answer = await edge.traces(tenant, sent, JSON, **({"content-encoding": encoding} if encoding else {}))
    assert answer.is_success or (answer.status_code, answer.json()["accepted"]) == (422, 0)
    assert bool(threads) is beside
    assert threading.get_ident() not in threads


async def test_a_fault_of_ours_is_an_answer(run_edge: Any, tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_edge() as edge:
        monkeypatch.setattr("tracebility.ingest.accept.decompress", lambda *_: 1 / 0)
        answer = await edge.runs(tenant, RUN)
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
        assert "division" not in answer.text
