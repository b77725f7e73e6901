"""Redis in its control role: batches the scripts and writes of concurrent requests into shared round trips."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions

from tracebility.config import redact
from tracebility.errors import StoreUnavailable
from tracebility.retry import STORE_RETRY_S
from tracebility.stores.redis_transport import VARIABLE, Servers, checked
from tracebility.stores.start import START_WAIT_S, until_reachable
from tracebility.tenant.scripts import Script

# A slower answer counts as Redis being unavailable. Requests then use local limits (`tenant.admission`).
DEADLINE_S = 0.5
# Calls within this interval share a pipeline; a round trip each would dominate the cost of admission.
BATCH_INTERVAL_S = 0.001
# Writes without an answer wait this long for a call whose pipeline they can share.
WRITE_DELAY_S = 0.02
# Calls that may wait before further writes without an answer are dropped.
MAX_WAITING = 10_000
# Keys per SCAN step: about 0.3 ms of server time.
SCAN_COUNT = 1_000


async def connect(url: str, *, wait_s: float = START_WAIT_S) -> "RedisControl":
    """Connect to Redis at ``url`` and wait for its first answer.

    Raises:
        ConfigurationError: when nothing answers for ``wait_s``, or the credentials or the database are refused.
    """
    hot = RedisControl(Servers(url))
    try:
        await until_reachable(VARIABLE, url, hot.ping, wait_s=wait_s)
    except BaseException:
        await hot.close()
        raise
    return hot


class RedisControl:
    """Implements `ControlStore`. One pipeline is in flight at a time, so calls keep their order."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any] | None]] = []
        self._sending: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._down_until = self._sent_at = 0.0

    async def close(self) -> None:
        """Send all waiting calls, and close."""
        while self._waiting or self._sending is not None:
            self._send_now()
            with suppress(StoreUnavailable):
                await self._sending  # type: ignore[misc]
        await self._servers.close()

    async def ping(self) -> None:
        """Return once every server answers."""
        for server in await self._servers.each():
            checked(await server.pipelined([("PING",)]))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """Run ``script`` and return its result.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """
        answer = await self._call(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if isinstance(answer, exceptions.NoScriptError):
            answer = await self._call(("EVAL", script.text, len(keys), *keys, *arguments))
        return _checked(answer)

    async def command(self, *command: Any) -> Any:
        """Run one command and return its raw result.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """
        return _checked(await self._call(command))

    async def forget(self, pattern: str) -> int:
        """Delete every key that matches ``pattern`` and return their number. Scans all keys, a thousand at a time.

        Raises:
            StoreUnavailable: when Redis does not answer; some keys may be deleted.
        """
        deleted = 0
        for server in await self._servers.each():
            cursor = b"0"
            while True:
                replies = await server.pipelined([("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)])
                checked(replies)
                [[cursor, found]] = replies
                deleted += sum(map(int, await self._servers.pipelined([("UNLINK", key) for key in found])))
                if cursor == b"0":
                    break
        return deleted

    def put(self, key: str, value: str | bytes, life_ms: int) -> None:
        """Set ``key`` for ``life_ms`` without waiting. The write is dropped if Redis is unavailable."""
        if len(self._waiting) < MAX_WAITING:
            self._send_later(("SET", key, value, "PX", life_ms), None)

    async def _call(self, command: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        if loop.time() < self._down_until:
            raise StoreUnavailable("redis", "did not answer the last call")
        answer: asyncio.Future[Any] = loop.create_future()
        self._send_later(command, answer)
        return await answer

    def _send_later(self, command: tuple[Any, ...], answer: "asyncio.Future[Any] | None") -> None:
        self._waiting.append((command, answer))
        if answer is not None:
            self._send_now()
        elif self._later is None and self._sending is None:
            self._later = asyncio.get_running_loop().call_later(WRITE_DELAY_S, self._send_now)

    def _send_now(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._sending is None and self._waiting:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                loop = asyncio.get_running_loop()
                if (early_s := self._sent_at + BATCH_INTERVAL_S - loop.time()) > 0:
                    await asyncio.sleep(early_s)
                self._sent_at = loop.time()
                waiting, self._waiting = self._waiting, []
                # Callers get an answer even if this task is cancelled.
                answers: Sequence[Any] = [StoreUnavailable("redis", "the command was not sent")] * len(waiting)
                try:
                    answers = await self._servers.pipelined(
                        [command for command, _ in waiting], raise_on_error=False, within_s=DEADLINE_S
                    )
                    # One silent node marks the whole cluster unavailable, so that callers fail fast.
                    is_down = any(isinstance(answer, StoreUnavailable) for answer in answers)
                    self._down_until = asyncio.get_running_loop().time() + STORE_RETRY_S if is_down else 0.0
                except StoreUnavailable as error:
                    answers = [error] * len(waiting)
                    self._down_until = asyncio.get_running_loop().time() + STORE_RETRY_S
                finally:
                    for (_, answer), result in zip(waiting, answers, strict=True):
                        if answer is not None and not answer.done():
                            answer.set_result(result)
                if all(answer is None for _, answer in self._waiting):
                    break
        finally:
            self._sending = None
            if self._waiting:
                self._later = asyncio.get_running_loop().call_later(WRITE_DELAY_S, self._send_now)


def _checked(answer: Any) -> Any:
    if isinstance(answer, StoreUnavailable):
        raise answer
    if isinstance(answer, Exception):
        raise StoreUnavailable("redis", redact(str(answer))) from answer
    return answer
