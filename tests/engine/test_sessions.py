"""Sessions are one request's at a time, end with their time, and are bounded in number."""

from typing import cast

import pytest

from tracebility_engine import sessions
from tracebility_engine.engine import EngineError, Handle
from tracebility_engine.sessions import Sessions


def used(kept: Sessions, name: str, keep_s: int = 60) -> Handle:
    """A session that a request has used and left, and its handle."""
    session = kept.enter(name, must_exist=False)
    session.handle = cast("Handle", object())
    kept.leave(session, keep_s)
    return session.handle


def test_the_idlest_of_too_many_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    kept = Sessions()
    handles = [used(kept, name, keep_s) for name, keep_s in (("b", 20), ("a", 10), ("c", 30))]
    assert kept.take_expired() == [handles[1]]
    assert kept.take_expired() == []


def test_a_session_in_use_is_never_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 0)
    kept = Sessions()
    used(kept, "a")
    kept.enter("a", must_exist=True)
    assert kept.take_expired() == kept.take_all() == []
    with pytest.raises(EngineError) as refused:
        kept.enter("a", must_exist=False)
    assert refused.value.code == sessions.SESSION_IS_LOCKED


def test_a_session_whose_time_is_over_is_gone() -> None:
    kept = Sessions()
    handle = used(kept, "a", keep_s=0)
    assert kept.take_expired() == [handle]
    with pytest.raises(EngineError) as refused:
        kept.enter("a", must_exist=True)
    assert refused.value.code == sessions.SESSION_NOT_FOUND
