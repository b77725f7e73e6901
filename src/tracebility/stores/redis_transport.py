"""Connections to Redis or Valkey: one server, or the nodes of a cluster. The server reports which it is.

Commands are sent in pipelines. In a cluster, each command goes to the node that holds its key: all commands for a node
in one write and in order, the nodes in parallel. A node that no longer holds a key redirects without running the
command, so even commands that must not be repeated can be redirected. If a slot has no node, the cluster counts as
unavailable.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from hiredis import pack_command
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from tracebility.config import redact
from tracebility.errors import ConfigurationError, StoreUnavailable
from tracebility.stores.start import Refused, place

VARIABLE = "TRACEBILITY_REDIS_URL"

CONNECT_TIMEOUT_S = 1.0  # a healthy server answers in milliseconds
OPERATION_TIMEOUT_S = 3.0  # above the worst fsync stall of a healthy disk, below the timeout of an exporter
MAX_CONNECTIONS = 32  # to each server

LARGE_BYTES = 8 << 10  # larger values are sent without copying them

SLOTS = 16_384
# Pauses between redirects, from the second on: while a slot migrates, its keys are on two nodes.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.1

Command: TypeAlias = tuple[Any, ...]

# The position of the key in a command, if it is not the first argument.
_KEY_AT = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2, "XINFO": 2, "XREADGROUP": -2, "SCAN": 3}
_AUTH_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REDIRECTS = (exceptions.AskError, exceptions.TryAgainError)  # a MovedError is an AskError


def open_pool(url: str, variable: str = VARIABLE) -> Any:
    """Create a pool for the server at ``url``, the value of ``variable``, without connecting.

    Raises:
        ConfigurationError: when ``url`` is malformed.
    """
    on_socket = url.startswith("unix:")
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=OPERATION_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=None,  # `pipelined` bounds the whole operation, not each read of it
            **({} if on_socket else {"socket_keepalive": True}),
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="tracebility",
        )
    except ValueError as error:
        raise ConfigurationError(f"{variable} is malformed. Write it as redis://:password@host:6379/0.") from error
    if on_socket:
        pool.connection_class = _UnixSocketConnection
    return pool


class _UnixSocketConnection(UnixDomainSocketConnection):
    """redis-py's own does the handshake twice, and the first time hides a refused password in a ConnectionError."""

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(self.path)


class Server:
    """One server. ``place`` is its host and port."""

    def __init__(self, url: str, variable: str = VARIABLE) -> None:
        self.place = place(url)
        self._pool = open_pool(url, variable)
        self._idle: list[Any] = []  # connections that are not returned to the pool
        self._waiting = 0  # callers that wait for a connection from the pool

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.disconnect()

    async def pipelined(self, commands: Sequence[Command], *, within_s: float = OPERATION_TIMEOUT_S) -> list[Any]:
        """Send ``commands`` in one write and return their raw replies, including errors.

        Raises:
            StoreUnavailable: when the server is unavailable or slower than ``within_s``. The commands may have run.
            Refused: when the credentials are refused.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._replies(commands)
        except (*_AUTH_ERRORS, exceptions.ResponseError) as error:
            # Replies to the commands are returned, so this error is from the handshake.
            raise Refused("redis", redact(str(error))) from error
        except (TimeoutError, exceptions.TimeoutError) as error:
            raise StoreUnavailable("redis", f"no answer within {within_s:g} s") from error
        except (exceptions.RedisError, OSError, RuntimeError) as error:
            # The event loop raises RuntimeError when the connection is closed during a write.
            raise StoreUnavailable("redis", redact(str(error))) from error

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        """Like the client library's pipeline, with cheaper packing (`_packed`)."""
        connection = await self._connection()
        try:
            await connection.send_packed_command(_packed(commands))
            replies = [await _reply(connection) for _ in commands]
        except BaseException:
            # Close the connection, so that a late reply is not read as the reply to the next command.
            await self._discard(connection)
            raise
        if self._waiting:
            await self._pool.release(connection)
        else:
            self._idle.append(connection)
        return replies

    async def _connection(self) -> Any:
        """Return an open connection. Taking one from the pool each time would cost as much as a command."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and not connection._reader.at_eof():
                return connection
            await self._discard(connection)
        self._waiting += 1
        try:
            return await self._pool.get_connection()
        finally:
            self._waiting -= 1

    async def _discard(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)


class Servers:
    """All servers behind a DSN. Connects on first use."""

    def __init__(self, url: str, variable: str = VARIABLE) -> None:
        self._home = Server(url, variable)
        self._url = url
        self._is_detected = False
        self._cluster: _Cluster | None = None

    async def close(self) -> None:
        """Close every connection."""
        await self._home.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def each(self) -> list[Server]:
        """Return all servers that hold keys, for commands that concern each of them.

        Raises:
            StoreUnavailable: when the servers cannot be determined.
        """
        await self._detect(OPERATION_TIMEOUT_S)
        return [self._home] if self._cluster is None else await self._cluster.each()

    async def pipelined(
        self, commands: Sequence[Command], *, raise_on_error: bool = True, within_s: float = OPERATION_TIMEOUT_S
    ) -> list[Any]:
        """Return the raw replies of ``commands``. MULTI to EXEC go to the node of their first key.

        Without ``raise_on_error``, errors are returned among the replies, also those of unavailable cluster nodes.

        Raises:
            StoreUnavailable: when a server is unavailable or slower than ``within_s``. The commands may have run.
            Refused: when the credentials are refused.
        """
        if not commands:
            return []
        if not self._is_detected:
            await self._detect(within_s)
        if self._cluster is None:
            replies = await self._home.pipelined(commands, within_s=within_s)
        else:
            replies = await self._cluster.pipelined(commands, within_s)
        if raise_on_error:
            checked(replies)
        return replies

    async def _detect(self, within_s: float) -> None:
        if self._is_detected:
            return
        [info] = await self._home.pipelined([("INFO", "cluster")], within_s=within_s)
        # A server that refuses INFO is treated as a single server.
        if isinstance(info, bytes) and b"cluster_enabled:1" in info and self._cluster is None:
            self._cluster = _Cluster(self._url, self._home)
        self._is_detected = True


@dataclass(slots=True)
class _Unit:
    """One command or one transaction: its positions among the given commands, and the slot of its key."""

    at: range
    slot: int
    ask_node: str = ""  # the node that imports the slot and already has the key (ASK redirect)


class _Cluster:
    """The nodes of a cluster that hold slots."""

    def __init__(self, url: str, home: Server) -> None:
        self._url = url
        self._home = home
        self._nodes: dict[str, Server] = {}
        self._holders: list[str] = []  # node of each slot, '' if it has none; the list is empty until it is loaded

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def each(self) -> list[Server]:
        holders = self._holders or await self._load_holders(OPERATION_TIMEOUT_S)
        if "" in holders:
            self._holders = []
            raise StoreUnavailable("redis", "the cluster has slots that no node holds")
        return [self._node(at) for at in sorted(set(holders))]

    async def pipelined(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        """Return the replies; for an unavailable node, `StoreUnavailable` in place of each of its replies."""
        replies: list[Any] = [None] * len(commands)
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + within_s, 0.0
        left = list(_units(commands))
        while True:
            holders = self._holders or await self._load_holders(within_s)
            going: dict[str, list[_Unit]] = {}
            for unit in left:
                going.setdefault(unit.ask_node or holders[unit.slot], []).append(unit)
            within_s = max(until - loop.time(), 0.001)
            await asyncio.gather(*(self._send(at, units, commands, replies, within_s) for at, units in going.items()))
            left = [unit for unit in left if self._is_redirected(unit, replies)]
            if not left or loop.time() + pause > until:
                return replies
            await asyncio.sleep(pause)
            pause = min(pause * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)

    async def _send(
        self, at: str, units: Iterable[_Unit], commands: Sequence[Command], replies: list[Any], within_s: float
    ) -> None:
        sending: list[Command] = []
        places: list[int] = []
        for unit in units:
            if unit.ask_node:
                sending.append(("ASKING",))
                places.append(unit.at[0])  # overwritten by the reply to the command itself
            sending += commands[unit.at.start : unit.at.stop]
            places += unit.at
        try:
            if not at:
                raise StoreUnavailable("redis", "no node of the cluster holds this slot")
            node_replies: Sequence[Any] = await self._node(at).pipelined(sending, within_s=within_s)
        except StoreUnavailable as error:
            self._holders = []  # another node may hold its slots by now
            node_replies = [error] * len(sending)
        for nth, reply in zip(places, node_replies, strict=True):
            replies[nth] = reply

    def _is_redirected(self, unit: _Unit, replies: Sequence[Any]) -> bool:
        """Whether the unit was redirected without being run. Stores the node to ask next."""
        for reply in replies[unit.at.start : unit.at.stop]:
            if isinstance(reply, _REDIRECTS):
                unit.ask_node = ""
                if isinstance(reply, exceptions.MovedError):
                    self._holders = []
                elif isinstance(reply, exceptions.AskError):
                    unit.ask_node = _host_port(reply.host or _host(self._url), reply.port)
                return True
        return False

    async def _load_holders(self, within_s: float) -> list[str]:
        """Load the node of each slot from the first node that answers."""
        asked = [*random.sample(list(self._nodes.values()), len(self._nodes)), self._home]
        failure: Exception | None = None
        for server in asked:
            try:
                [node_replies] = await server.pipelined([("CLUSTER", "SLOTS")], within_s=within_s / len(asked))
            except StoreUnavailable as error:
                failure = error
                continue
            if isinstance(node_replies, Exception):
                failure = StoreUnavailable("redis", redact(str(node_replies)))
                continue
            holders = [""] * SLOTS
            for first, last, (host, port, *_), *_ in node_replies:
                at = _host_port(bytes(host or b"").decode() or _host(self._url), int(port))
                holders[int(first) : int(last) + 1] = [at] * (int(last) + 1 - int(first))
            for at in set(self._nodes) - set(holders):
                await self._nodes.pop(at).close()
            self._holders = holders
            return holders
        assert failure is not None
        raise failure

    def _node(self, at: str) -> Server:
        """Return the node at this host and port, with the credentials and options of the DSN."""
        if at not in self._nodes:
            parts = urlsplit(self._url)
            credentials, sign, _ = parts.netloc.rpartition("@")
            self._nodes[at] = Server(urlunsplit(parts._replace(netloc=f"{credentials}{sign}{at}")))
        return self._nodes[at]


def checked(replies: Sequence[Any]) -> None:
    """Raise the first error among ``replies``, including those inside a transaction's reply.

    Raises:
        StoreUnavailable: when there is an error.
    """
    error = next(filter(None, map(refusal, replies)), None)
    if isinstance(error, StoreUnavailable):
        raise error
    if error is not None:
        kind = Refused if isinstance(error, _AUTH_ERRORS) else StoreUnavailable
        raise kind("redis", redact(str(error))) from error


def refusal(reply: Any) -> Exception | None:
    """Return the error that ``reply`` is or that a transaction's reply contains, else None."""
    if isinstance(reply, Exception):
        return reply
    if isinstance(reply, list):
        return next((part for part in reply if isinstance(part, Exception)), None)
    return None


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Encode ``commands`` (RESP) as buffers to be written in order.

    Small values are packed in C. Large values are not copied: at 100 KB, copying is more than half of the cost.
    """
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        if not any(isinstance(part, bytes) and len(part) > LARGE_BYTES for part in command):
            small.append(pack_command(command))
            continue
        small.append(b"*%d" % len(command))
        for part in command:
            value = part if isinstance(part, bytes) else str(part).encode()
            small.append(b"\r\n$%d\r\n" % len(value))
            if len(value) > LARGE_BYTES:
                pieces += (b"".join(small), value)
                small = []
            else:
                small.append(value)
        small.append(b"\r\n")
    return [*pieces, b"".join(small)]


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error


def _units(commands: Sequence[Command]) -> Iterable[_Unit]:
    start = 0
    while start < len(commands):
        end = start + 1
        if commands[start][0] == "MULTI":
            while commands[end - 1][0] != "EXEC":
                end += 1
        at = range(start, end)
        # Commands without a key, such as PING, may go to any node.
        yield _Unit(at, next((_slot(commands[nth]) for nth in at if len(commands[nth]) > 1), 0))
        start = end


def _slot(command: Command) -> int:
    key = command[_KEY_AT.get(command[0], 1)]
    return key_slot(key.encode() if isinstance(key, str) else key)


def _host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
