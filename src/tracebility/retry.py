"""Waits before retries: constants and exponential backoff for the whole program."""

import asyncio
from dataclasses import dataclass

# Pause before a failed store is called again. Callers answer 503 or buffer the data meanwhile.
STORE_RETRY_S = 1.0
# Shorter for the queue, because envelopes wait in disk buffers until it answers.
QUEUE_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: ``first_s``, doubled with every try, ``longest_s`` at most. Seconds."""

    first_s: float = 0.1
    longest_s: float = 5.0

    def delay_s(self, tries: int) -> float:
        """Return the wait after attempt number ``tries``, counted from 1."""
        return min(self.first_s * 2.0 ** min(tries - 1, 30), self.longest_s)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
