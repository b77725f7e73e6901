"""The connection that every side of the queue works on: pipelines, and scripts sent by hash."""

from collections.abc import Sequence
from typing import Any

from redis import exceptions

from tracebility.stores.queue.entries import COUNTS_LEFT_MS, GROUP, Leaving, ScriptCall
from tracebility.stores.redis_transport import Command, Servers, checked
from tracebility.tenant.ledger import counts_key
from tracebility.tenant.scripts import LEAVE, Script


class QueueConnection:
    """Connections to the servers behind a queue. Every method raises `StoreUnavailable` when one is away or refuses."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def close(self) -> None:
        """Close every connection."""
        await self._servers.close()

    async def ping(self) -> None:
        """Return when the store answers, each server of it."""
        for server in await self._servers.each():
            checked(await server.pipelined([("PING",)]))

    async def leave(self, leaving: Sequence["Leaving"]) -> None:
        """As `ack_and_delete` for several streams, and out of the books with what is in them.

        Does no harm when it was done before, so that whoever got no answer may ask again.
        """
        await self._run([_leaving(one) for one in leaving if one.ids or one.departures])
        counted = [one.book for each in leaving for one in each.departures if not one.counts_elsewhere]
        await self._pipeline([("PEXPIRE", counts_key(book), COUNTS_LEFT_MS) for book in counted])

    async def _run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        replies = await self._pipeline([by_sha(*one) for one in calls], raise_on_error=False)
        unknown = [nth for nth, reply in enumerate(replies) if is_unknown_script(reply)]
        texts = await self._pipeline([by_text(*calls[nth]) for nth in unknown])
        for nth, reply in zip(unknown, texts, strict=True):
            replies[nth] = reply
        checked(replies)
        return replies

    async def _pipeline(self, commands: Sequence[Command], *, raise_on_error: bool = True) -> list[Any]:
        return await self._servers.pipelined(commands, raise_on_error=raise_on_error)


def by_sha(script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return ("EVALSHA", script.sha, len(keys), *keys, *arguments)


def by_text(script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> tuple[Any, ...]:
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def is_unknown_script(reply: Any) -> bool:
    return isinstance(reply, exceptions.NoScriptError)


def _leaving(leaving: Leaving) -> ScriptCall:
    keys = [leaving.stream, *(key for one in leaving.departures for key in one.book.keys)]
    said = (
        part for book, counts_elsewhere, entry_id in leaving.departures
        for part in (book.envelope_id.hex, book.hour, book.items, int(counts_elsewhere), entry_id)
    )  # fmt: skip
    return LEAVE, keys, [GROUP, len(leaving.ids), *leaving.ids, *said]
