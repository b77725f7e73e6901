"""Whatever somebody with all rights on either store changes in the trail, verification finds it and says where."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from tracebility.audit import chain_store
from tracebility.audit.prefilter import suspect_chains
from tracebility.audit.verify import Verification
from tracebility.ids import uuid7

# (kind, number of the event as it was written or None, seq)
Expected = list[tuple[str, int | None, int | None]]

REHASH = """
UPDATE audit_log SET hash = audit_hash(
    (SELECT hash FROM audit_log AS before WHERE before.org_id = $1 AND before.seq = $2 - 1), audit_log
) WHERE org_id = $1 AND seq = $2
"""
FIX_HEAD = """
UPDATE audit_head SET (seq, hash) = (SELECT seq, hash FROM audit_log WHERE org_id = $1 ORDER BY seq DESC LIMIT 1)
WHERE org_id = $1
"""
FORGE = """
INSERT INTO audit_log
    (event_id, event_time, event_type, org_id, actor_type, actor_id, target_type, target_id, seq, hash)
VALUES ($1, now(), 'access.denied', $2, 'api_key', 'x', 'project', 'y', $3, sha256('forged'))
"""
EDIT = """UPDATE audit_log SET details = '{"number": 0}' WHERE event_id = $1"""
INSERT_COPY = """
INSERT INTO audit_log (event_id, event_time, event_type, org_id, actor_type, actor_user_id, target_type, target_id,
    details, seq, hash)
SELECT {id:UUID}, event_time, event_type, {to:UUID}, actor_type, actor_user_id, target_type, target_id,
    details, seq, hash
FROM audit_log WHERE event_id = {event:UUID}
"""

Tampering = Callable[[Any], Awaitable[Expected]]
TAMPERINGS: dict[str, Tampering] = {}


def tampering(act: Tampering) -> Tampering:
    TAMPERINGS[act.__name__] = act
    return act


@tampering
async def nothing(trail: Any) -> Expected:
    return []


@tampering
async def an_edit(trail: Any) -> Expected:
    await trail.tamper((EDIT, trail.events[2]))
    return [("edited", 3, 3)]


@tampering
async def an_edit_of_who(trail: Any) -> Expected:
    await trail.tamper(("UPDATE audit_log SET actor_id = 'somebody else' WHERE event_id = $1", trail.events[5]))
    return [("edited", 6, 6)]


@tampering
async def an_edit_of_a_time_beyond_all_calendars(trail: Any) -> Expected:
    await trail.tamper(("UPDATE audit_log SET event_time = 'infinity' WHERE event_id = $1", trail.events[0]))
    return [("edited", 1, 1)]


@tampering
async def an_edit_hashed_anew(trail: Any) -> Expected:
    await trail.tamper((EDIT, trail.events[2]), (REHASH, trail.org_id, 3))
    return [("edited", 3, 3)]


@tampering
async def everything_from_an_edit_on_hashed_anew(trail: Any) -> Expected:
    await trail.tamper(
        (EDIT, trail.events[3]),
        *((REHASH, trail.org_id, seq) for seq in (4, 5, 6)),
        (FIX_HEAD, trail.org_id),
    )
    return [("edited", 4, 4), ("edited", 5, 5), ("edited", 6, 6)]


@tampering
async def a_deletion(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[2]))
    return [("deleted", 3, 3)]


@tampering
async def a_deletion_of_the_first(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[0]))
    return [("deleted", 1, 1)]


@tampering
async def a_deletion_in_both_stores(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[2]))
    await trail.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=str(trail.events[2]))
    return [("deleted", None, 3)]


@tampering
async def an_insertion(trail: Any) -> Expected:
    trail.events.append(uuid7())
    await trail.tamper((FORGE, trail.events[-1], trail.org_id, 7))
    return [("inserted", 7, 7)]


@tampering
async def an_insertion_that_fits(trail: Any) -> Expected:
    trail.events.append(uuid7())
    await trail.tamper((FORGE, trail.events[-1], trail.org_id, 7), (REHASH, trail.org_id, 7), (FIX_HEAD, trail.org_id))
    return [("missing_in_clickhouse", 7, 7)]


@tampering
async def two_numbers_swapped(trail: Any) -> Expected:
    swap = "UPDATE audit_log SET seq = $2 WHERE event_id = $1"
    third, fourth = trail.events[2:4]
    await trail.tamper((swap, third, -1), (swap, fourth, 3), (swap, third, 4))
    return [("reordered", 4, 3), ("reordered", 3, 4)]


@tampering
async def two_numbers_far_apart_swapped(trail: Any) -> Expected:
    swap = "UPDATE audit_log SET seq = $2 WHERE event_id = $1"
    await trail.tamper((swap, trail.events[1], -1), (swap, trail.events[5], 2), (swap, trail.events[1], 6))
    # The head has the hash of what was last.
    return [("reordered", 6, 2), ("reordered", 2, 6), ("truncated", None, 6)]


@tampering
async def an_end_cut_off(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[5]), (FIX_HEAD, trail.org_id))
    return [("truncated", 6, 6)]


@tampering
async def an_end_cut_off_but_not_the_head(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = ANY ($1::uuid[])", trail.events[4:]))
    return [("truncated", 5, 5), ("truncated", 6, 6)]


@tampering
async def an_end_cut_off_in_both_stores(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_log WHERE event_id = $1", trail.events[5]))
    await trail.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=str(trail.events[5]))
    return [("truncated", None, 6)]


@tampering
async def everything_removed(trail: Any) -> Expected:
    await trail.tamper(
        ("DELETE FROM audit_log WHERE org_id = $1", trail.org_id),
        ("DELETE FROM audit_head WHERE org_id = $1", trail.org_id),
    )
    return [("truncated", seq, seq) for seq in range(1, 7)]


@tampering
async def a_head_removed(trail: Any) -> Expected:
    await trail.tamper(("DELETE FROM audit_head WHERE org_id = $1", trail.org_id))
    return [("truncated", None, None)]


@tampering
async def a_head_set_back(trail: Any) -> Expected:
    await trail.tamper(("UPDATE audit_head SET seq = 4 WHERE org_id = $1", trail.org_id))
    return [("truncated", None, 4)]


@tampering
async def a_head_of_another_hash(trail: Any) -> Expected:
    await trail.tamper(("UPDATE audit_head SET hash = sha256('x') WHERE org_id = $1", trail.org_id))
    return [("truncated", None, 6)]


@tampering
async def an_edit_in_the_data_plane(trail: Any) -> Expected:
    await trail.tamper_with_engine(
        "ALTER TABLE audit_log UPDATE details = '{}' WHERE event_id = {e:UUID}", e=str(trail.events[2])
    )
    return [("edited_in_clickhouse", 3, 3)]


@tampering
async def a_second_row_in_the_data_plane_that_says_something_else(trail: Any) -> Expected:
    await trail.tamper_with_engine(
        INSERT_COPY.replace("details, seq, hash\nFROM", "'{}', seq, hash\nFROM"),
        id=str(trail.events[2]),
        to=str(trail.org_id),
        event=str(trail.events[2]),
    )
    return [("edited_in_clickhouse", 3, 3)]


@tampering
async def a_row_given_to_another_org_in_the_data_plane(trail: Any) -> Expected:
    event = str(trail.events[2])
    await trail.tamper_with_engine(INSERT_COPY, id=event, to=str(uuid7()), event=event)
    await trail.tamper_with_engine(
        "ALTER TABLE audit_log DELETE WHERE org_id = {org:UUID} AND event_id = {e:UUID}", e=event
    )
    return [("edited_in_clickhouse", 3, 3)]


@tampering
async def a_deletion_in_the_data_plane(trail: Any) -> Expected:
    await trail.tamper_with_engine("ALTER TABLE audit_log DELETE WHERE event_id = {e:UUID}", e=str(trail.events[2]))
    return [("missing_in_clickhouse", 3, 3)]


@tampering
async def an_insertion_in_the_data_plane(trail: Any) -> Expected:
    trail.events.append(uuid7())
    await trail.tamper_with_engine(
        "INSERT INTO audit_log (event_id, event_time, org_id) SELECT {e:UUID}, now64(6), {org:UUID}",
        e=str(trail.events[-1]),
    )
    return [("inserted_in_clickhouse", 7, None)]


@tampering
async def an_insertion_in_the_data_plane_that_has_a_number(trail: Any) -> Expected:
    trail.events.append(uuid7())
    await trail.tamper_with_engine(
        INSERT_COPY, id=str(trail.events[-1]), to=str(trail.org_id), event=str(trail.events[2])
    )
    return [("inserted_in_clickhouse", 7, 3)]


@pytest.mark.parametrize("page", [1000, 2])
@pytest.mark.parametrize("name", TAMPERINGS)
async def test_each_tampering_is_found_and_located(
    trail: Any, name: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_store, "PAGE", page)
    await trail.write(6)
    await trail.relay()
    expected = await TAMPERINGS[name](trail)
    found = await trail.problems()
    monkeypatch.setattr(chain_store, "PAGE", 99)  # of all orgs
    assert (trail.org_id in await suspect_chains(trail.control, trail.engine)) == bool(expected)
    assert sorted(found, key=str) == sorted(
        ((kind, None if number is None else trail.events[number - 1], seq) for kind, number, seq in expected), key=str
    )


async def test_what_waits_for_the_relay_is_no_problem(trail: Any) -> None:
    await trail.write(2)
    await trail.relay()
    await trail.write(2)
    assert await trail.problems() == []
    assert trail.org_id not in await suspect_chains(trail.control, trail.engine)
    await trail.tamper((EDIT, trail.events[3]))
    assert await trail.problems() == [("edited", trail.events[3], 4)]
    assert trail.org_id in await suspect_chains(trail.control, trail.engine)
    await trail.relay()


async def test_without_an_org_every_chain_is_verified_also_one_that_is_gone(trail: Any) -> None:
    """As the operator does every hour."""
    await trail.write(1)
    await trail.relay()
    verification = Verification(trail.control, trail.engine)

    async def found() -> set[UUID | None]:
        assert await verification.tick() == verification.found
        return {problem.org_id for problem in verification.found}

    assert trail.org_id not in await found()
    await everything_removed(trail)
    assert trail.org_id in await found()
