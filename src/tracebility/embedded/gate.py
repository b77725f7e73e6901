"""What holds a started child back: it loads its modules meanwhile, and goes on when the gate opens."""

import os


class Gate:
    """A pipe that nobody writes to: its reader waits until the other end is closed, also by our own death."""

    def __init__(self) -> None:
        self.descriptor, self._closed = os.pipe()
        self._is_open = False

    @property
    def environment(self) -> dict[str, str]:
        """Tells a child that inherits ``descriptor`` to wait for it."""
        return {"TRACEBILITY_START_FD": str(self.descriptor)}

    def open(self) -> None:
        """Let everyone through, those who come later as well."""
        if not self._is_open:
            self._is_open = True
            os.close(self._closed)
