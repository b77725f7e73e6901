"""The queue: streams of envelopes in Redis or Valkey, as its producer, its consumers and its operators use it.

Commands stay within Redis 7.0, and no command or transaction names keys of two streams, so that a cluster can hold
them: a change to two streams happens in steps, each of which may be repeated. A reply that did not come in time is
*ambiguous*: the entry may be in the stream. Appends are therefore never retried here; the caller keeps the envelope
elsewhere, and the identity of rows makes a duplicate harmless.
"""

from tracebility.stores.queue.consumer import Consumer
from tracebility.stores.queue.inspection import Inspection
from tracebility.stores.queue.producer import Producer
from tracebility.stores.redis_transport import VARIABLE, Servers
from tracebility.stores.start import START_WAIT_S, until_reachable


async def connect_queue(url: str, *, variable: str = VARIABLE, wait_s: float = START_WAIT_S) -> "Queue":
    """The queue at ``url``, which ``variable`` names, once it has answered.

    Raises:
        ConfigurationError: when nothing answers there for ``wait_s``, or it refuses the credentials or the database.
    """
    queue = Queue(Servers(url, variable))
    try:
        await until_reachable(variable, url, queue.ping, wait_s=wait_s)
    except BaseException:
        await queue.close()
        raise
    return queue


class Queue(Producer, Consumer, Inspection):
    """All sides of the queue over one set of connections."""
