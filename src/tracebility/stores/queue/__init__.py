"""The queue: streams of envelopes in Redis or Valkey, with interfaces for the producer, consumers and operators.

Commands are limited to Redis 7.0. No command or transaction uses keys of two streams, because a cluster may hold them
on two nodes; a change to two streams is a sequence of steps that can each be repeated. A timed-out append is
*ambiguous*: the entry may be in the stream. Appends are therefore never retried here. The caller buffers the envelope
on disk, and the identity of rows makes duplicates harmless.
"""

from tracebility.stores.queue.consumer import Consumer
from tracebility.stores.queue.inspection import Inspection
from tracebility.stores.queue.producer import Producer
from tracebility.stores.redis_transport import VARIABLE, Servers
from tracebility.stores.start import START_WAIT_S, until_reachable


async def connect_queue(url: str, *, variable: str = VARIABLE, wait_s: float = START_WAIT_S) -> "Queue":
    """Connect to the queue at ``url``, the value of ``variable``, and wait for its first answer.

    Raises:
        ConfigurationError: when nothing answers for ``wait_s``, or the credentials or the database are refused.
    """
    queue = Queue(Servers(url, variable))
    try:
        await until_reachable(variable, url, queue.ping, wait_s=wait_s)
    except BaseException:
        await queue.close()
        raise
    return queue


class Queue(Producer, Consumer, Inspection):
    """All interfaces of the queue over one set of connections."""
