"""Redis in its control role: scripts and marks of many concurrent requests, each turn of the loop in one round trip."""

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

# A gate that takes longer is away: a request goes on without it (`tenant.admission`), and clients wait for neither.
DEADLINE_S = 0.5
# Questions that follow so closely on others go together: a round trip each would be most of what the gates cost.
GATHER_S = 0.001
# After it failed, nobody waits for it; one call in this long finds out whether it is back.
# Marks go with the next question; with a pipeline of their own, which costs what a question costs, only if none comes.
MARKS_WAIT_S = 0.02
# Marks that wait while the store is away are of no use to anyone.
MOST_WAITING = 10_000
# Keys looked at in one step of a walk through all: some 0.3 ms of the server.
SCANNED_AT_ONCE = 1_000


async def connect(url: str, *, wait_s: float = START_WAIT_S) -> "Hot":
    """The control role at ``url``, once it has answered.

    Raises:
        ConfigurationError: when nothing answers there for ``wait_s``, or it refuses the credentials or the database.
    """
    hot = Hot(Servers(url))
    try:
        await until_reachable(VARIABLE, url, hot.ping, wait_s=wait_s)
    except BaseException:
        await hot.close()
        raise
    return hot


class Hot:
    """The resolver's, limiter's and meter's store. One pipeline is on its way at a time, so calls keep their order."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any] | None]] = []
        self._sending: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._away_until = self._sent_at = 0.0

    async def close(self) -> None:
        """Send what waits, and close."""
        while self._waiting or self._sending is not None:
            self._send_now()
            with suppress(StoreUnavailable):
                await self._sending  # type: ignore[misc]
        await self._servers.close()

    async def ping(self) -> None:
        """Return when the store answers, each server of it."""
        for server in await self._servers.each():
            checked(await server.pipelined([("PING",)]))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """What ``script`` answers.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """
        answer = await self._asked(("EVALSHA", script.sha, len(keys), *keys, *arguments))
        if isinstance(answer, exceptions.NoScriptError):
            answer = await self._asked(("EVAL", script.text, len(keys), *keys, *arguments))
        return _checked(answer)

    async def command(self, *command: Any) -> Any:
        """What a single command answers, raw.

        Raises:
            StoreUnavailable: when it is unknown whether it ran.
        """
        return _checked(await self._asked(command))

    async def forget(self, pattern: str) -> int:
        """Delete every key that looks like ``pattern``; how many. Walks through all there are, a thousand at a time.

        Raises:
            StoreUnavailable: when the store does not answer; some may be deleted then.
        """
        gone = 0
        for server in await self._servers.each():
            cursor = b"0"
            while True:
                replies = await server.pipelined([("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_AT_ONCE)])
                checked(replies)
                [[cursor, found]] = replies
                gone += sum(map(int, await self._servers.pipelined([("UNLINK", key) for key in found])))
                if cursor == b"0":
                    break
        return gone

    def put(self, key: str, value: str | bytes, life_ms: int) -> None:
        """Set ``key`` for a while, without waiting for it; where the store is away, not at all."""
        if len(self._waiting) < MOST_WAITING:
            self._send_later(("SET", key, value, "PX", life_ms), None)

    async def _asked(self, command: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            raise StoreUnavailable("redis", "did not answer a moment ago")
        answer: asyncio.Future[Any] = loop.create_future()
        self._send_later(command, answer)
        return await answer

    def _send_later(self, command: tuple[Any, ...], answer: "asyncio.Future[Any] | None") -> None:
        self._waiting.append((command, answer))
        if answer is not None:
            self._send_now()
        elif self._later is None and self._sending is None:
            self._later = asyncio.get_running_loop().call_later(MARKS_WAIT_S, self._send_now)

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
                if (early_s := self._sent_at + GATHER_S - loop.time()) > 0:
                    await asyncio.sleep(early_s)
                self._sent_at = loop.time()
                waiting, self._waiting = self._waiting, []
                # Whatever happens, nobody waits for ever.
                answers: Sequence[Any] = [StoreUnavailable("redis", "the question was not asked")] * len(waiting)
                try:
                    answers = await self._servers.pipelined(
                        [command for command, _ in waiting], raise_on_error=False, within_s=DEADLINE_S
                    )
                    # A cluster of which a node does not answer is away, or everybody would wait for it each time.
                    is_away = any(isinstance(answer, StoreUnavailable) for answer in answers)
                    self._away_until = asyncio.get_running_loop().time() + STORE_RETRY_S if is_away else 0.0
                except StoreUnavailable as error:
                    answers = [error] * len(waiting)
                    self._away_until = asyncio.get_running_loop().time() + STORE_RETRY_S
                finally:
                    for (_, answer), said in zip(waiting, answers, strict=True):
                        if answer is not None and not answer.done():
                            answer.set_result(said)
                if all(answer is None for _, answer in self._waiting):
                    break
        finally:
            self._sending = None
            if self._waiting:
                self._later = asyncio.get_running_loop().call_later(MARKS_WAIT_S, self._send_now)


def _checked(answer: Any) -> Any:
    if isinstance(answer, StoreUnavailable):
        raise answer
    if isinstance(answer, Exception):
        raise StoreUnavailable("redis", redact(str(answer))) from answer
    return answer
