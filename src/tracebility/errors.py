"""One error type per meaning; the doors (HTTP, command line) map each once to what a client sees.

HTTP bodies are RFC 9457 problem JSON: ``type`` (a stable code), ``title``, ``status``, ``detail`` (what and where), and
``hint`` (what to do). Every code has its line in ``docs/errors.md``.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

from tracebility import request_id

# Answers are one tenant's: no cache on the way may keep one, and a browser must not guess what it holds.
NOT_FOR_OTHERS = {
    "cache-control": "private, no-store",
    "vary": "Authorization",
    "x-content-type-options": "nosniff",
}


class TracebilityError(Exception):
    """Everything this program raises on purpose."""


class ConfigurationError(TracebilityError):
    """The installation is set up wrongly. ``str()`` is one line that names the variable and the fix, no secrets."""


class StoreUnavailable(TracebilityError):
    """A store does not answer, or refuses; the caller may try again. ``store`` is postgres, redis or clickhouse."""

    def __init__(self, store: str, detail: str) -> None:
        super().__init__(f"{store}: {detail}")
        self.store = store
        self.detail = detail


class Problem(TracebilityError):
    """An answer other than 2xx, as RFC 9457 has it."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self, detail: str, *, hint: str = "", retry_after_s: int | None = None, **members: str | int | float | None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.retry_after_s = retry_after_s
        self.members = members

    def body(self, instance: str = "") -> dict[str, Any]:
        """The problem document. ``instance`` is the path or id of the request it speaks of."""
        document: dict[str, Any] = {
            "type": f"urn:tracebility:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.hint:
            document["hint"] = self.hint
        if instance:
            document["instance"] = instance
        if request_id.current():
            document["request_id"] = request_id.current()
        return document | self.members

    def headers(self) -> dict[str, str]:
        """Headers beside the body, ``content-type`` included."""
        headers = {"content-type": "application/problem+json"} | NOT_FOR_OTHERS
        if request_id.current():
            headers[request_id.HEADER] = request_id.current()
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        return headers


class BadRequest(Problem):
    status, code, title = 400, "bad-request", "The request cannot be read"


class Unauthenticated(Problem):
    """Unknown, malformed, wrong, revoked, expired, absent: one wording for all, so that no answer tells which."""

    status, code, title = 401, "unauthenticated", "A valid API key is needed"

    def __init__(self) -> None:
        super().__init__(
            "The API key is missing or not valid.",
            hint="Send 'Authorization: Bearer tb_...' or 'x-api-key: tb_...' with a key of this installation.",
        )

    def headers(self) -> dict[str, str]:
        return super().headers() | {"www-authenticate": 'Bearer realm="tracebility"'}


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "The key lacks the scope for this"


class Suspended(Problem):
    """The key is valid, and its org refused at every door until an operator lets it in again."""

    status, code, title = 403, "suspended", "This organisation is suspended"

    def __init__(self) -> None:
        super().__init__(
            "The organisation of this key is suspended. What it has stored is kept.",
            hint="Ask whoever runs this installation.",
        )


class NotFound(Problem):
    """Missing, or another tenant's: the same words for both."""

    status, code, title = 404, "not-found", "There is no such thing"

    def __init__(self) -> None:
        super().__init__("Nothing is stored under this address, or not for this key.")


class Taken(Problem):
    """There is one of this name already; of two that are made at once, one wins."""

    status, code, title = 409, "taken", "There is one of this name already"


class BeingDeleted(Problem):
    """An org that was deleted is not changed any more, and not let in again."""

    status, code, title = 409, "being-deleted", "This organisation is deleted"

    def __init__(self) -> None:
        super().__init__(
            "This organisation is deleted, or is being deleted; that cannot be taken back.",
            hint="GET /v1/admin/orgs/{org_id}/deletions tells how far it is.",
        )


class KeyEnded(Problem):
    """A revoked or expired key is not brought back by rotating it."""

    status, code, title = 409, "key-ended", "This key has ended"

    def __init__(self) -> None:
        super().__init__("This key is revoked or expired, so it cannot be rotated.", hint="Make a new key.")


class MovedLately(Problem):
    """An org is not moved again so soon: what the last move did does not show yet. ``Retry-After`` says when."""

    status, code, title = 409, "moved-lately", "This organisation was moved a moment ago"

    def __init__(self, moved_at: str, wait_s: int) -> None:
        super().__init__(
            f"The shards of this organisation were changed at {moved_at}, and may be again in {wait_s} s, or by force.",
            hint="Wait for Retry-After seconds, or say 'force': true.",
            retry_after_s=wait_s,
            moved_at=moved_at,
        )


class MethodNotAllowed(Problem):
    """The address is right and the method is not. ``Allow`` names those that it takes."""

    status, code, title = 405, "method-not-allowed", "This address does not take this method"

    def __init__(self, path: str, methods: Iterable[str]) -> None:
        self._allowed = ", ".join(sorted(methods))
        super().__init__(f"{path} takes {self._allowed}.", hint=f"Use {self._allowed}.")

    def headers(self) -> dict[str, str]:
        return super().headers() | {"allow": self._allowed}


class RequestTimeout(Problem):
    """The rest of the request may still come, and be taken for another one: the connection ends with this answer."""

    status, code, title = 408, "request-timeout", "The request did not arrive in time"

    def headers(self) -> dict[str, str]:
        return super().headers() | {"connection": "close"}


class PayloadTooLarge(Problem):
    status, code, title = 413, "payload-too-large", "The request is larger than is accepted"


class UnsupportedMedia(Problem):
    status, code, title = 415, "unsupported-media", "This content type or encoding is not understood"


class Unprocessable(Problem):
    status, code, title = 422, "unprocessable", "The request is well formed, but a value in it is not acceptable"


class AnswerTooLarge(Problem):
    """What was asked for is there, but larger than one answer may be: asking again changes nothing."""

    status, code, title = 422, "answer-too-large", "The answer is larger than can be given"


class HeadTooLarge(Problem):
    status, code, title = 431, "head-too-large", "The address and headers are larger than is accepted"


class RateLimited(Problem):
    """Too many requests of the org, or of the key, for now. ``Retry-After`` is 1 to 5 s.

    Headers: draft-ietf-httpapi-ratelimit-headers.
    """

    status, code, title = 429, "rate-limited", "Too many requests"

    def __init__(self, which: str, requests_per_s: int, burst: int, retry_after_s: int) -> None:
        whose = "This organisation" if which == "org" else "This key"
        super().__init__(
            f"{whose} may send {requests_per_s} requests a second, and {burst} at once after a pause.",
            hint="Send the same request again after Retry-After seconds; put more spans into each request.",
            retry_after_s=retry_after_s,
            limit=requests_per_s,
            burst=burst,
        )
        self._policy = rate_policy(which, requests_per_s, burst)
        self._state = f'"{which}";r=0;t={retry_after_s}'

    def headers(self) -> dict[str, str]:
        return super().headers() | {"ratelimit-policy": self._policy, "ratelimit": self._state}


def rate_policy(which: str, requests_per_s: int, burst: int) -> str:
    """``RateLimit-Policy`` of a rate: so many requests, and the seconds in which they come back."""
    return f'"{which}";q={burst};w={-(-burst // requests_per_s)}'


class QuotaExceeded(Problem):
    """A meter has no room for all of the request, so nothing of it was kept or counted."""

    status, code, title = 402, "quota-exceeded", "The plan's quota does not allow this"

    def __init__(self, meter: str, limit: int, used: int, wanted: int, period: str, resets_at: datetime) -> None:
        super().__init__(
            f"The plan allows {limit} {meter} in {period}; {used} are used, and this request has {wanted}.",
            hint="Ask whoever runs this installation for a larger plan, or wait until resets_at.",
            meter=meter,
            limit=limit,
            used=used,
            period=period,
            resets_at=resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


class Overloaded(Problem):
    """A store is away or full, so nothing was kept. Always carries ``Retry-After`` (1 to 5 s)."""

    status, code, title = 503, "overloaded", "This cannot be kept right now"

    def __init__(self, detail: str, *, hint: str = "Send the same request again after Retry-After seconds.") -> None:
        super().__init__(detail, hint=hint, retry_after_s=2)


class AuditLogTampered(Problem):
    """An org's next event has no place behind its last one: somebody changed its trail in the store.

    Nothing that has to be in the trail is done until a person has mended it. ``Retry-After`` is as with every 503.
    """

    status, code, title = 503, "trail-tampered", "The audit trail is not as it was written"

    def __init__(self, reason: str = "") -> None:
        """``reason`` is for the log: the answer does not say which number of which org."""
        self.reason = reason
        super().__init__(
            "The audit trail of this organisation is not as it was written, "
            "so nothing is changed until that is mended.",
            hint="Run 'tracebility audit verify': it says what was done to it, and where.",
            retry_after_s=2,
        )

    def __str__(self) -> str:
        """What a command says, in its one line."""
        return f"{self.detail} {self.hint}"


class Unavailable(Problem):
    """A store that an answer needs is away. Nothing was changed; the same request works once it is back."""

    status, code, title = 503, "store-unavailable", "A store that this answer needs is away"

    def __init__(self, detail: str, **members: str | int | float | None) -> None:
        super().__init__(
            detail, hint="Send the same request again after Retry-After seconds.", retry_after_s=2, **members
        )
