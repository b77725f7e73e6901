"""Clients under test conditions: they send as fast as told, and remember of every request what they were answered.

What they remember is one side of the audit (``auditor`` holds the other): a request was *acknowledged*, *refused*, or
its fate is *unknown* because the connection ended or the deadline passed before an answer came.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from .payload import Request, Stamp
from .resends import Parcel, Resends

ANSWER_DEADLINE_S = 15.0
RECONNECT_PAUSE_S = 0.05
RETRY_PAUSE_S = 0.2


class Outcome(StrEnum):
    """What a client may believe about a request it sent."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as far as a sender cares."""

    status: int
    body: bytes
    retry_after: bool


@dataclass(frozen=True, slots=True)
class Sending:
    """One request from first byte to final belief; ``tries`` bodies were sent, all the same."""

    stamp: Stamp
    outcome: Outcome
    status: int
    tries: int
    began: float
    seconds: float


@dataclass
class Ledger:
    """Everything that clients were told."""

    sendings: list[Sending] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    refused_without_retry_after: int = 0

    def spans(self, outcome: Outcome) -> npt.NDArray[np.uint64]:
        """Ids of the spans of requests with this outcome."""
        chosen = [sending.stamp.spans for sending in self.sendings if sending.outcome is outcome]
        return np.concatenate(chosen) if chosen else np.empty(0, np.uint64)

    def count(self, outcome: Outcome) -> int:
        """Requests with this outcome."""
        return sum(sending.outcome is outcome for sending in self.sendings)

    def latencies(self) -> npt.NDArray[np.float64]:
        """Seconds from sending to answer of requests acknowledged at the first try."""
        return np.array([s.seconds for s in self.sendings if s.outcome is Outcome.ACKNOWLEDGED and s.tries == 1])

    def __str__(self) -> str:
        return " ".join(f"{outcome} {self.count(outcome)}" for outcome in Outcome) + f" statuses {dict(self.statuses)}"


class ConnectionLost(ConnectionError):
    """The peer went away before the answer was whole."""


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection that sends prebuilt bodies."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiter: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 22)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionLost(str(exc or "closed")))

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes | memoryview, deadline_s: float = ANSWER_DEADLINE_S) -> Answer:
        """Send one request, wait for its answer.

        Raises:
            ConnectionLost: when the connection ended first.
            TimeoutError: when the deadline passed first; the connection is closed then.
        """
        if self._transport is None:
            raise ConnectionLost("closed")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.writelines((head, body))
        try:
            async with asyncio.timeout(deadline_s):
                return await self._waiter
        except TimeoutError:
            self.close()
            raise

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = _header(head, b"content-length")
        if length is None:
            self.close()  # our server always says the length; anything else cannot be told from a torn answer
            return
        if len(self._buffer) < end + 4 + int(length):
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + int(length)], self._buffer[end + 4 + int(length) :]
        answer = Answer(int(head[9:12]), body, _header(head, b"retry-after") is not None)
        if _header(head, b"connection") == b"close":
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _header(head: bytes, name: bytes) -> bytes | None:
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    at += len(name) + 3
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()


class Load:
    """``connections`` senders that share a pool of prebuilt requests, which holds at least one for each of them."""

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        pool: Sequence[Request],
        *,
        connections: int = 8,
        requests_per_s: float | None = None,
        retry: bool = False,
        deadline_s: float = ANSWER_DEADLINE_S,
        seed: int | None = None,  # of ids; without one no two loads send a span twice
        resends: Resends | None = None,  # what is sent again between fresh requests
        path: str = "/v1/traces",
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._path = path
        self._pool = list(pool)
        assert len(self._pool) >= connections, "each connection needs a request of its own"
        self._connections = connections
        self._pause_s = 1 / requests_per_s if requests_per_s else 0.0
        self._next = 0.0
        self._retry = retry
        self._deadline_s = deadline_s
        self._numbers = np.random.default_rng(seed)
        self._resends = resends
        self._left = 0
        self._stop = asyncio.Event()
        self._to_the_end = False
        self.acknowledged = 0
        self.on_acknowledged: Callable[[Sending], None] | None = None
        self.ledger = Ledger()

    def stop(self, *, to_the_end: bool = False) -> None:
        """Let every sender finish the request in hand and end; without further tries, unless ``to_the_end``."""
        self._to_the_end = to_the_end
        self._stop.set()

    async def run(self, *, requests: int | None = None, seconds: float | None = None) -> Ledger:
        """Send until ``requests`` are sent, ``seconds`` passed or `stop` is called; what clients were told so far."""
        self._stop.clear()
        self._left = requests if requests is not None else 1 << 60
        self._next = time.perf_counter()
        timer = asyncio.get_running_loop().call_later(seconds, self.stop) if seconds is not None else None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(self._send_on())
        finally:
            if timer is not None:
                timer.cancel()
        return self.ledger

    async def _send_on(self) -> None:
        connection: Connection | None = None
        while self._left > 0 and not self._stop.is_set():
            self._left -= 1
            if self._pause_s:
                self._next += self._pause_s
                await asyncio.sleep(max(0.0, self._next - time.perf_counter()))
                self._next = max(self._next, time.perf_counter() - 1.0)  # after a stall, catch up one second at most
            request = self._pool.pop()
            stamp = request.renew(self._numbers)
            try:
                connection = await self._send(connection, request, stamp)
                if self._resends is not None:
                    self._resends.keep(bytes(request.view))
                    for parcel in self._resends.draw():
                        connection = await self._send(connection, parcel, parcel.stamp)
            finally:
                self._pool.insert(0, request)
        if connection is not None:
            connection.close()

    async def _send(self, connection: Connection | None, request: Request | Parcel, stamp: Stamp) -> Connection | None:
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/x-protobuf\r\n"
            f"{self._headers}content-length: {len(request.view)}\r\n\r\n"
        ).encode()
        began, tries, status, doubtful = time.perf_counter(), 0, 0, False
        while True:
            sent = False
            try:
                if connection is None or not connection.is_open:
                    connection = await Connection.open(self._host, self._port)
                tries, sent = tries + 1, True
                answer = await connection.ask(head, request.view, self._deadline_s)
                status = answer.status
                self.ledger.statuses[status] += 1
                if 200 <= status < 300:
                    outcome = Outcome.ACKNOWLEDGED
                    break
                if status in (429, 503) and not answer.retry_after:
                    self.ledger.refused_without_retry_after += 1
                outcome = Outcome.REFUSED
                if not self._retry or self._is_hurried():
                    break
                await asyncio.sleep(RETRY_PAUSE_S)
            except (OSError, TimeoutError):
                connection = None
                doubtful |= sent  # what never left this process cannot have been stored
                outcome = Outcome.UNKNOWN if doubtful else Outcome.REFUSED
                await asyncio.sleep(RECONNECT_PAUSE_S)
                if (sent and not self._retry) or self._is_hurried():
                    break
        if outcome is Outcome.REFUSED and doubtful:
            outcome = Outcome.UNKNOWN
        sending = Sending(stamp, outcome, status, tries, began, time.perf_counter() - began)
        self.ledger.sendings.append(sending)
        if outcome is Outcome.ACKNOWLEDGED:
            self.acknowledged += request.size
            if self.on_acknowledged is not None:
                self.on_acknowledged(sending)
        return connection

    def _is_hurried(self) -> bool:
        return self._stop.is_set() and not self._to_the_end
