"""Named places where a test may end this process as ``kill -9`` would.

``TRACEBILITY_FAILPOINT=name`` ends the process the first time it comes by ``name``; ``name:3`` the third time. With the
variable unset, a failpoint is one comparison.
"""

import os
import signal

_armed = os.environ.get("TRACEBILITY_FAILPOINT", "")
_name, _, _count = _armed.partition(":")
_left = int(_count or 1)


def failpoint(name: str) -> None:
    """End this process with SIGKILL if ``name`` is the armed failpoint."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
