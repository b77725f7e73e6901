"""A latch that started children wait at after loading their modules, until it opens."""

import os


class StartLatch:
    """A pipe that nobody writes to. Children wait until the other end is closed, by `open` or by our death."""

    def __init__(self) -> None:
        self.descriptor, self._closed = os.pipe()
        self._is_open = False

    @property
    def environment(self) -> dict[str, str]:
        """The environment variable that makes a child wait. The child must inherit ``descriptor``."""
        return {"TRACEBILITY_START_FD": str(self.descriptor)}

    def open(self) -> None:
        """Let all children continue, including those that start later."""
        if not self._is_open:
            self._is_open = True
            os.close(self._closed)
