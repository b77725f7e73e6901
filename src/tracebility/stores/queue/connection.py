"""The connection that all interfaces of the queue share: pipelines, and scripts called by hash."""

from collections.abc import Sequence
from typing import Any

from redis import exceptions

from tracebility.stores.queue.entries import COUNTS_LEFT_MS, GROUP, Removal, ScriptCall
from tracebility.stores.redis_transport import Command, Servers, checked
from tracebility.tenant.ledger import counts_key
from tracebility.tenant.scripts import REMOVE_ENTRIES, Script


class QueueConnection:
    """Connections to the servers of a queue. Every method raises `StoreUnavailable` when a server fails or refuses."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def close(self) -> None:
        """Close every connection."""
        await self._servers.close()

    async def ping(self) -> None:
        """Return once every server answers."""
        for server in await self._servers.each():
            checked(await server.pipelined([("PING",)]))

    async def remove(self, removals: Sequence["Removal"]) -> None:
        """Acknowledge and delete entries of several streams, and update the ledger. Idempotent."""
        await self._run([_removal_call(one) for one in removals if one.ids or one.ledger_removals])
        counted = [one.book for each in removals for one in each.ledger_removals if not one.counts_elsewhere]
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


def _removal_call(removal: Removal) -> ScriptCall:
    keys = [removal.stream, *(key for one in removal.ledger_removals for key in one.book.keys)]
    arguments = (
        part for book, counts_elsewhere, entry_id in removal.ledger_removals
        for part in (book.envelope_id.hex, book.hour, book.items, int(counts_elsewhere), entry_id)
    )  # fmt: skip
    return REMOVE_ENTRIES, keys, [GROUP, len(removal.ids), *removal.ids, *arguments]
