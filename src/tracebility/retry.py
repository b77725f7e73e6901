"""How long to wait before something that failed is tried again: one place for every retry in the program."""

import asyncio
from dataclasses import dataclass

# A store that did not answer is asked again after this. Callers answer 503 or keep the data elsewhere meanwhile.
STORE_RETRY_S = 1.0
# The queue is asked again sooner: envelopes wait in disk buffers until it answers.
QUEUE_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: ``first_s``, doubled with every try, ``longest_s`` at most. Seconds."""

    first_s: float = 0.1
    longest_s: float = 5.0

    def delay_s(self, tries: int) -> float:
        """The wait after try number ``tries``, counted from 1."""
        return min(self.first_s * 2.0 ** min(tries - 1, 30), self.longest_s)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for ``seconds``, or until ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
