"""Read a request's body within three bounds: its size, the client's time, and this process's memory."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import Gauge

from tracebility.errors import BadRequest, Overloaded, PayloadTooLarge, RequestTimeout
from tracebility.ids import OrgId
from tracebility.wire import limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# Bodies being read or waiting for the queue. At 100 KB a request and 30,000 spans/s some 60 MB are in flight for every
# 100 ms that an answer takes.
IN_FLIGHT_BYTES = 256 << 20

# One org may hold 1/4 of it, so that no org alone locks the others out.
SHARE_OF_ORG = 4


class Disconnected(Exception):
    """The client went away before its body was whole."""


class Budget:
    """The bytes that this process may hold for requests in flight."""

    def __init__(self, most: int, gauge: Gauge) -> None:
        self.left = most
        self.share = most // SHARE_OF_ORG
        self.held: dict[OrgId, int] = {}
        gauge.set_function(lambda: most - self.left)

    def lease(self, org_id: OrgId) -> "Lease":
        """The lease of one request of ``org_id``, empty at first."""
        return Lease(self, org_id)

    def take(self, count: int) -> None:
        """Raises: Overloaded, when so many bytes are not left."""
        if count > self.left:
            raise Overloaded("Too many bytes are being received at once.")
        self.left -= count

    def give_back(self, count: int) -> None:
        """Undo a `take`."""
        self.left += count


class Lease:
    """The bytes of one request, returned when it is answered."""

    def __init__(self, budget: Budget, org_id: OrgId) -> None:
        self._budget = budget
        self._org_id = org_id
        self._taken = 0

    def take(self, count: int) -> None:
        """Raises: Overloaded, when so many bytes are not left, or not to this org."""
        held = self._budget.held.get(self._org_id, 0) + count
        if held > self._budget.share:
            raise Overloaded("Too many bytes are being received at once from this org.")
        self._budget.take(count)
        self._budget.held[self._org_id] = held
        self._taken += count

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self._taken)
        held = self._budget.held.pop(self._org_id, 0) - self._taken
        if held > 0:
            self._budget.held[self._org_id] = held


async def read(receive: Receive, content_length: str, lease: Lease) -> bytes:
    """The whole body, accounted to ``lease``.

    Raises:
        PayloadTooLarge: as soon as it is known to be too large; the rest is left unread.
        Overloaded: when this process holds too many bodies already.
        BadRequest: when it takes too long.
        RequestTimeout: when it comes to a halt.
        Disconnected: when the client is gone.
    """
    if content_length.isdecimal() and int(content_length[:20]) > limits.BODY_BYTES:
        raise _too_large()
    now = asyncio.get_running_loop().time
    end = now() + limits.BODY_SECONDS
    try:
        async with asyncio.timeout_at(min(end, now() + limits.STEP_SECONDS)) as patience:
            first, more = await _chunk(receive, lease)
            if not more:
                return first
            chunks, size, step = [first], len(first), 0
            while more:
                if size >= step:
                    step = size + limits.STEP_BYTES
                    patience.reschedule(min(end, now() + limits.STEP_SECONDS))
                chunk, more = await _chunk(receive, lease)
                chunks.append(chunk)
                size += len(chunk)
                if size > limits.BODY_BYTES:
                    raise _too_large()
    except TimeoutError as error:
        if now() < end:
            raise RequestTimeout(
                f"Less than {limits.STEP_BYTES >> 10} KiB of the body came within {limits.STEP_SECONDS:.0f} s.",
                hint="Send the request again, or smaller ones.",
            ) from error
        raise BadRequest(
            f"The body did not arrive within {limits.BODY_SECONDS:.0f} s.", hint="Send smaller requests."
        ) from error
    return b"".join(chunks)


async def _chunk(receive: Receive, lease: Lease) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] != "http.request":
        raise Disconnected
    chunk: bytes = message.get("body", b"")
    lease.take(len(chunk))
    return chunk, message.get("more_body", False)


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is larger than {limits.BODY_BYTES >> 20} MiB as sent.",
        hint="Send fewer spans or runs a request, or compress it (gzip or zstd).",
    )
