"""A latch that holds started children back: they load their modules meanwhile, and go on when it opens."""

import os


class StartLatch:
    """A pipe that nobody writes to. A child waits until the other end is closed, which our own death does too."""

    def __init__(self) -> None:
        self.descriptor, self._closed = os.pipe()
        self._is_open = False

    @property
    def environment(self) -> dict[str, str]:
        """The variable that makes a child wait; the child must inherit ``descriptor``."""
        return {"TRACEBILITY_START_FD": str(self.descriptor)}

    def open(self) -> None:
        """Let every child go on, also those that start later."""
        if not self._is_open:
            self._is_open = True
            os.close(self._closed)
