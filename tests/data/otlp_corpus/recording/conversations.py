"""The conversations that every client is given: three sessions of a shop's support, one of which meets an exception."""

from dataclasses import dataclass

SYSTEM = "You answer customers of a shop for outdoor gear. Be brief and polite, and look orders up before you answer."


@dataclass(frozen=True)
class Conversation:
    """One question of one user, and the tool that the fake model will call for it."""

    question: str
    session_id: str
    user_id: str
    tags: list[str]
    metadata: dict[str, str]


CONVERSATIONS = (
    Conversation(
        "My order 4711 has not arrived yet although the page says that it was sent on Monday. Where? Look in orders.",
        "session-5f0d3a9e71c24b68",
        "user-20417",
        ["support", "eu-west"],
        {"plan": "team", "channel": "chat", "locale": "de-CH"},
    ),
    Conversation(
        "I want my money back for order 4712: the tent arrived broken 😞 (Größe XL, naïve café). Make a refund.",
        "session-a94c12de08b7f536",
        "user-31880",
        ["support", "escalated"],
        {"plan": "free", "channel": "mail", "locale": "fr-FR"},
    ),
    Conversation(
        "Which of your sleeping bags is warm enough for a week in the Alps in October? Look at my orders first.",
        "session-c7710be4925ad3f8",
        "user-00023",
        ["sales"],
        {"plan": "team", "channel": "chat", "locale": "en-GB"},
    ),
)

DOCUMENTS = (
    (
        "doc-104",
        "Parcels to Switzerland leave our warehouse within two working days and take three more to arrive.",
        0.91,
        {"source": "shipping.md", "page": 3},
    ),
    (
        "doc-221",
        "Broken goods are replaced or paid back within thirty days, when a photograph of the damage is sent.",
        0.77,
        {"source": "returns.md", "page": 1},
    ),
    (
        "doc-315",
        "The Alpine 900 is comfortable down to minus eight degrees; the Meadow 300 only down to plus five.",
        0.52,
        {"source": "sleeping-bags.md", "page": 12},
    ),
)


def find_orders(query: str, limit: int = 3) -> str:
    """Look up the orders of the customer."""
    rows = [
        f'{{"order": {4711 + number}, "state": "sent", "carrier": "Post", "for": "{query}"}}' for number in range(limit)
    ]
    return f"[{', '.join(rows)}]"


def make_refund(query: str, limit: int = 3) -> str:
    """Pay the price of an order back."""
    raise PermissionError(f"refunds above {limit} need the approval of a person: {query}")
