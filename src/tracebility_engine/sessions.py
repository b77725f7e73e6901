"""Sessions of the owner that live longer than a request: temporary tables and SET, as the interface promises them."""

import time
from dataclasses import dataclass, field

from tracebility_engine.engine import EngineError, Handle

SESSION_NOT_FOUND = 372
SESSION_IS_LOCKED = 373
# Each holds an open handle; the one idle longest makes room.
MAX_SESSIONS = 128


@dataclass(slots=True)
class Session:
    """A handle that outlives a request, and which settings the last request left on it."""

    handle: Handle | None = None
    busy: bool = False
    expires_at: float = 0.0
    applied: dict[str, str] = field(default_factory=dict)


class Sessions:
    """Sessions by id. Used from the event loop only; handles are closed by the caller, on a thread."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}

    def enter(self, session_id: str, *, must_exist: bool) -> Session:
        """The session, locked for one request.

        Raises:
            EngineError: it is in use, or should be there and is not.
        """
        session = self._by_id.get(session_id)
        if session is None:
            if must_exist:
                raise _refused(SESSION_NOT_FOUND, f"Session {session_id} not found", "SESSION_NOT_FOUND")
            session = self._by_id[session_id] = Session()
        if session.busy:
            raise _refused(
                SESSION_IS_LOCKED, f"Session {session_id} is locked by a concurrent client", "SESSION_IS_LOCKED"
            )
        session.busy = True
        return session

    def leave(self, session: Session, keep_s: int) -> None:
        """Unlock the session and let it live for ``keep_s`` more seconds."""
        session.busy = False
        session.expires_at = time.monotonic() + keep_s

    def take_expired(self) -> list[Handle]:
        """Remove expired sessions, and the longest idle if there are too many; return the handles to close."""
        now = time.monotonic()
        idle = sorted(
            ((session.expires_at, key) for key, session in self._by_id.items() if not session.busy),
            key=lambda found: found[0],
        )
        surplus = max(0, len(self._by_id) - MAX_SESSIONS)
        over = [key for at, (expires_at, key) in enumerate(idle) if expires_at <= now or at < surplus]
        return self._forget(over)

    def take_all(self) -> list[Handle]:
        """Remove every session that is not in use; return the handles to close."""
        return self._forget([key for key, session in self._by_id.items() if not session.busy])

    def _forget(self, keys: list[str]) -> list[Handle]:
        return [session.handle for key in keys if (session := self._by_id.pop(key)).handle is not None]


def _refused(code: int, text: str, name: str) -> EngineError:
    return EngineError(code, f"Code: {code}. DB::Exception: {text}. ({name})")
