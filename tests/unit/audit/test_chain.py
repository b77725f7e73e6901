"""A hash of the chain covers every field, in the form that the schema gives it."""

from dataclasses import fields, replace
from hashlib import sha256
from uuid import UUID

import pytest

from tracebility.audit.chain import GENESIS_HASH, Link

EVENT = UUID("0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a11")
ORG = UUID("0192f0c1-5a5e-7cc1-8f5e-0d6a4c0c9a12")
LINK = Link(EVENT, 1_795_521_600_000_001, "org.created", ORG, "user", "ü", "org", "t", '{"a": 1}', 7, "")
OTHER = {
    "event_id": ORG,
    "event_time_us": 0,
    "event_type": "org.suspended",
    "org_id": None,
    "actor_type": "system",
    "actor_id": "u",
    "target_type": "project",
    "target_id": "",
    "details": '{"a":1}',
    "seq": 8,
}


def test_the_hash_is_of_every_field_behind_its_length_in_bytes() -> None:
    hashed = (f"1:736:{EVENT}16:179552160000000111:org.created36:{ORG}4:user2:ü3:org1:t8:" + '{"a": 1}').encode()
    before = sha256(b"before")
    assert LINK.hash_after(before.hexdigest()) == sha256(before.digest() + hashed).hexdigest()
    assert LINK.hash_after(GENESIS_HASH) == sha256(hashed).hexdigest()


@pytest.mark.parametrize("name", [field.name for field in fields(Link) if field.name != "hash"])
def test_a_change_of_any_field_changes_the_hash(name: str) -> None:
    assert replace(LINK, **{name: OTHER[name]}).hash_after(GENESIS_HASH) != LINK.hash_after(GENESIS_HASH)


def test_what_moves_from_one_field_to_the_next_changes_the_hash() -> None:
    moved = replace(LINK, target_type="orgt", target_id="")
    assert moved.hash_after(GENESIS_HASH) != LINK.hash_after(GENESIS_HASH)


def test_an_event_follows_the_hash_it_was_made_behind_and_no_other() -> None:
    link = replace(LINK, hash=LINK.hash_after("ab"))
    assert link.follows("ab")
    assert link.follows(None, "cd", "ab")
    assert not link.follows(None, GENESIS_HASH, "cd")
    assert not link.follows()
