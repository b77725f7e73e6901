"""What is behind a DSN of Redis or Valkey: one server, or the nodes of a cluster; the server says itself which it is.

Commands go out in pipelines. In a cluster each goes to the node that holds its key: all of one node in one write and in
their order, the nodes beside one another. A node that has given a key away says who has it, and has not run the
command, so even what must not be repeated is sent on. Every slot has to be held: a cluster of which a node is gone,
and no replica in its place, is a store that is away.
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

CONNECT_TIMEOUT_S = 1.0  # a store on the same network answers in milliseconds; a blackhole must not hold a request
OPERATION_TIMEOUT_S = 3.0  # above the worst fsync stall of a healthy disk, below the patience of an exporter
MAX_CONNECTIONS = 32  # to each server

LARGE_BYTES = 8 << 10  # from here on a value is not worth a copy

SLOTS = 16_384
# Between tries of what is sent on, from the second on: of a slot under way, some keys are here and some are there.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.1

Command: TypeAlias = tuple[Any, ...]

# Where the key of a command is; else it is the first argument.
_KEY_AT = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2, "XINFO": 2, "XREADGROUP": -2, "SCAN": 3}
_UNWELCOME = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_SENT_ON = (exceptions.AskError, exceptions.TryAgainError)  # a MovedError is an AskError


def open_pool(url: str, variable: str = VARIABLE) -> Any:
    """Connections to the server at ``url``, which ``variable`` names, none of them open yet.

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
    """One server, called by its ``place``, host and port."""

    def __init__(self, url: str, variable: str = VARIABLE) -> None:
        self.place = place(url)
        self._pool = open_pool(url, variable)
        self._idle: list[Any] = []  # connections of the pool that are kept from it
        self._waiting = 0  # callers that want one of it

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.disconnect()

    async def pipelined(self, commands: Sequence[Command], *, within_s: float = OPERATION_TIMEOUT_S) -> list[Any]:
        """Send ``commands`` in one write and return their raw replies, errors among them, within so many seconds.

        Raises:
            StoreUnavailable: when it is away, or did not answer in time: any of them may or may not have run.
            Refused: when it does not take the credentials.
        """
        try:
            async with asyncio.timeout(within_s):
                return await self._replies(commands)
        except (*_UNWELCOME, exceptions.ResponseError) as error:
            # Outside of a pipeline's own replies only the handshake can be answered with an error.
            raise Refused("redis", redact(str(error))) from error
        except (TimeoutError, exceptions.TimeoutError) as error:
            raise StoreUnavailable("redis", f"no answer within {within_s:g} s") from error
        except (exceptions.RedisError, OSError, RuntimeError) as error:
            # A RuntimeError is how the event loop says that the connection was closed while it was written to.
            raise StoreUnavailable("redis", redact(str(error))) from error

    async def _replies(self, commands: Sequence[Command]) -> list[Any]:
        """What the client's own pipeline does, with commands packed without its detours (`_packed`)."""
        connection = await self._connection()
        try:
            await connection.send_packed_command(_packed(commands))
            replies = [await _reply(connection) for _ in commands]
        except BaseException:
            # A reply that is still to come must not be taken for the next one's.
            await self._give_up(connection)
            raise
        if self._waiting:
            await self._pool.release(connection)
        else:
            self._idle.append(connection)
        return replies

    async def _connection(self) -> Any:
        """One that is open, as far as this end knows. To have it of the pool each time costs as much as a command."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and not connection._reader.at_eof():
                return connection
            await self._give_up(connection)
        self._waiting += 1
        try:
            return await self._pool.get_connection()
        finally:
            self._waiting -= 1

    async def _give_up(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)


class Servers:
    """All servers behind a DSN, not connected yet."""

    def __init__(self, url: str, variable: str = VARIABLE) -> None:
        self._home = Server(url, variable)
        self._url = url
        self._has_asked = False
        self._cluster: _Cluster | None = None

    async def close(self) -> None:
        """Close every connection."""
        await self._home.close()
        if self._cluster is not None:
            await self._cluster.close()

    async def each(self) -> list[Server]:
        """The servers that hold keys: for what is to be asked of all of them.

        Raises:
            StoreUnavailable: when it is not known which they are.
        """
        await self._ask(OPERATION_TIMEOUT_S)
        return [self._home] if self._cluster is None else await self._cluster.each()

    async def pipelined(
        self, commands: Sequence[Command], *, raise_on_error: bool = True, within_s: float = OPERATION_TIMEOUT_S
    ) -> list[Any]:
        """The raw replies of ``commands``. From MULTI to EXEC they go to one node, as the first key among them says.

        Without ``raise_on_error`` the errors are among the replies. With it, or of a single server, this

        Raises:
            StoreUnavailable: when a store is away, or did not answer in time: any of them may or may not have run.
            Refused: when it does not take the credentials.
        """
        if not commands:
            return []
        if not self._has_asked:
            await self._ask(within_s)
        if self._cluster is None:
            replies = await self._home.pipelined(commands, within_s=within_s)
        else:
            replies = await self._cluster.pipelined(commands, within_s)
        if raise_on_error:
            checked(replies)
        return replies

    async def _ask(self, within_s: float) -> None:
        if self._has_asked:
            return
        [said] = await self._home.pipelined([("INFO", "cluster")], within_s=within_s)
        # Whoever keeps INFO to itself is taken for a single server.
        if isinstance(said, bytes) and b"cluster_enabled:1" in said and self._cluster is None:
            self._cluster = _Cluster(self._url, self._home)
        self._has_asked = True


@dataclass(slots=True)
class _Unit:
    """Commands that go together, a transaction or one: which of those given they are, and the slot of their key."""

    at: range
    slot: int
    taker: str = ""  # the node that is taking the slot over and has the key already


class _Cluster:
    """The nodes that hold slots."""

    def __init__(self, url: str, home: Server) -> None:
        self._url = url
        self._home = home
        self._nodes: dict[str, Server] = {}
        self._holders: list[str] = []  # of each slot, '' where nobody is; empty when it is to be asked for

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def each(self) -> list[Server]:
        holders = self._holders or await self._learn(OPERATION_TIMEOUT_S)
        if "" in holders:
            self._holders = []
            raise StoreUnavailable("redis", "the cluster has slots that no node holds")
        return [self._node(at) for at in sorted(set(holders))]

    async def pipelined(self, commands: Sequence[Command], within_s: float) -> list[Any]:
        """The replies, where a node is away its `StoreUnavailable` in place of them."""
        replies: list[Any] = [None] * len(commands)
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + within_s, 0.0
        left = list(_units(commands))
        while True:
            holders = self._holders or await self._learn(within_s)
            going: dict[str, list[_Unit]] = {}
            for unit in left:
                going.setdefault(unit.taker or holders[unit.slot], []).append(unit)
            within_s = max(until - loop.time(), 0.001)
            await asyncio.gather(*(self._send(at, units, commands, replies, within_s) for at, units in going.items()))
            left = [unit for unit in left if self._is_sent_on(unit, replies)]
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
            if unit.taker:
                sending.append(("ASKING",))
                places.append(unit.at[0])  # overwritten by what follows
            sending += commands[unit.at.start : unit.at.stop]
            places += unit.at
        try:
            if not at:
                raise StoreUnavailable("redis", "no node of the cluster holds this slot")
            said: Sequence[Any] = await self._node(at).pipelined(sending, within_s=within_s)
        except StoreUnavailable as error:
            self._holders = []  # somebody else may hold its slots by now
            said = [error] * len(sending)
        for nth, reply in zip(places, said, strict=True):
            replies[nth] = reply

    def _is_sent_on(self, unit: _Unit, replies: Sequence[Any]) -> bool:
        """Whether it has not been run; it goes to whom the reply names then."""
        for reply in replies[unit.at.start : unit.at.stop]:
            if isinstance(reply, _SENT_ON):
                unit.taker = ""
                if isinstance(reply, exceptions.MovedError):
                    self._holders = []
                elif isinstance(reply, exceptions.AskError):
                    unit.taker = _written(reply.host or _host(self._url), reply.port)
                return True
        return False

    async def _learn(self, within_s: float) -> list[str]:
        """The holder of each slot, as anybody says who answers."""
        asked = [*random.sample(list(self._nodes.values()), len(self._nodes)), self._home]
        why: Exception | None = None
        for server in asked:
            try:
                [said] = await server.pipelined([("CLUSTER", "SLOTS")], within_s=within_s / len(asked))
            except StoreUnavailable as error:
                why = error
                continue
            if isinstance(said, Exception):
                why = StoreUnavailable("redis", redact(str(said)))
                continue
            holders = [""] * SLOTS
            for first, last, (host, port, *_), *_ in said:
                at = _written(bytes(host or b"").decode() or _host(self._url), int(port))
                holders[int(first) : int(last) + 1] = [at] * (int(last) + 1 - int(first))
            for at in set(self._nodes) - set(holders):
                await self._nodes.pop(at).close()
            self._holders = holders
            return holders
        assert why is not None
        raise why

    def _node(self, at: str) -> Server:
        """The node of that place, reached as the DSN says."""
        if at not in self._nodes:
            parts = urlsplit(self._url)
            who, sign, _ = parts.netloc.rpartition("@")
            self._nodes[at] = Server(urlunsplit(parts._replace(netloc=f"{who}{sign}{at}")))
        return self._nodes[at]


def checked(replies: Sequence[Any]) -> None:
    """Return when there is no error among ``replies``, or in a transaction's.

    Raises:
        StoreUnavailable: when there is.
    """
    error = next(filter(None, map(refusal, replies)), None)
    if isinstance(error, StoreUnavailable):
        raise error
    if error is not None:
        kind = Refused if isinstance(error, _UNWELCOME) else StoreUnavailable
        raise kind("redis", redact(str(error))) from error


def refusal(reply: Any) -> Exception | None:
    """The error that ``reply`` is, or holds as the reply of a transaction."""
    if isinstance(reply, Exception):
        return reply
    if isinstance(reply, list):
        return next((part for part in reply if isinstance(part, Exception)), None)
    return None


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """``commands`` on the wire (RESP), to be written one after the other.

    Small ones are packed in C. A large value goes to the kernel from where it is: with 100 KB, copies into fresh
    memory are more than half of what sending costs.
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
        # What has no key, such as PING, may go anywhere.
        yield _Unit(at, next((_slot(commands[nth]) for nth in at if len(commands[nth]) > 1), 0))
        start = end


def _slot(command: Command) -> int:
    key = command[_KEY_AT.get(command[0], 1)]
    return key_slot(key.encode() if isinstance(key, str) else key)


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
