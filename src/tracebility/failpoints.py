"""Named points in the code at which a test can kill this process with SIGKILL.

``TRACEBILITY_FAILPOINT=name`` ends the process the first time it comes by ``name``; ``name:3`` the third time. With the
variable unset, a failpoint is one comparison. With ``TRACEBILITY_FAILPOINT_ONCE=FILE`` only the first process that gets
there ends: it leaves ``FILE`` behind, so that its successor in the same environment goes on.
"""

import os
import signal

_armed = os.environ.get("TRACEBILITY_FAILPOINT", "")
_name, _, _count = _armed.partition(":")
_left = int(_count or 1)
_once = os.environ.get("TRACEBILITY_FAILPOINT_ONCE", "")


def failpoint(name: str) -> None:
    """End this process with SIGKILL if ``name`` is the armed failpoint."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0 and _is_first():
        os.kill(os.getpid(), signal.SIGKILL)


def _is_first() -> bool:
    if not _once:
        return True
    try:
        os.close(os.open(_once, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True
