"""Decides when a batch is closed: by rows, by bytes, or by the time that mapping or inserting it takes."""

# The fixed cost of an insert is 13 ms, a microsecond a span at this size. Four batches are in memory at once, with
# their envelopes.
MAX_ROWS = 16_000
MAX_BYTES = 32 << 20
# Mapping time of a batch, and insert time of a batch. Spans of other orgs wait that long behind each batch.
MAX_WORK_S = 0.4
# At this size and above, the fixed cost of an insert is a small part of its time.
MIN_ROWS = 6_000
# Weight of the last insert in the moving average of the insert rate.
_RATE_WEIGHT = 0.3


class BatchBounds:
    """Bounds of batches. The bound on rows follows the insert rate of the last batches."""

    def __init__(self) -> None:
        self._rows_per_s = MAX_ROWS / MAX_WORK_S

    @property
    def max_rows(self) -> int:
        """Rows that the engine inserts within `MAX_WORK_S` at its current rate."""
        return min(MAX_ROWS, max(MIN_ROWS, int(self._rows_per_s * MAX_WORK_S)))

    def inserted(self, rows: int, took_s: float) -> None:
        """Update the insert rate. Small inserts are ignored, because the fixed cost dominates their time."""
        if rows >= MIN_ROWS:
            self._rows_per_s += (rows / max(took_s, 1e-3) - self._rows_per_s) * _RATE_WEIGHT

    def is_full(self, rows: int, size: int, mapping_s: float) -> bool:
        """Whether to close a batch with this number of rows, bytes of bodies, and seconds of mapping."""
        return mapping_s >= MAX_WORK_S or rows >= self.max_rows or size >= MAX_BYTES
