"""When a batch is closed: by its rows, by its bytes, and by the work that it means."""

# An insert costs the engine 13 ms whatever its size, a microsecond a span at this one. Four batches are in memory, with
# the envelopes they came in.
MOST_ROWS = 16_000
MOST_BYTES = 32 << 20
# Spans of one org wait until the batches before theirs are mapped and inserted. Neither may take longer than this.
MOST_WORK_S = 0.4
# What an insert costs whatever its size stays small beside so many rows.
LEAST_ROWS = 6_000
# Of the last insert in the engine's rate.
_WEIGHT = 0.3


class BatchBounds:
    """Bounds of batches, with what the engine inserted per second of late."""

    def __init__(self) -> None:
        self._rows_per_s = MOST_ROWS / MOST_WORK_S

    @property
    def most_rows(self) -> int:
        """How many rows the engine is likely to insert within `MOST_WORK_S`."""
        return min(MOST_ROWS, max(LEAST_ROWS, int(self._rows_per_s * MOST_WORK_S)))

    def inserted(self, rows: int, took_s: float) -> None:
        """Learn from an insert. A small one, which is mostly what any costs, says nothing about the rate."""
        if rows >= LEAST_ROWS:
            self._rows_per_s += (rows / max(took_s, 1e-3) - self._rows_per_s) * _WEIGHT

    def is_full(self, rows: int, size: int, mapping_s: float) -> bool:
        """Whether to close a batch of ``rows`` rows from bodies of ``size`` bytes that took ``mapping_s`` to map."""
        return mapping_s >= MOST_WORK_S or rows >= self.most_rows or size >= MOST_BYTES
