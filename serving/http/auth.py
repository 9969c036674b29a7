"""Who calls the API, what each may do, and how often."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from driftloop.core.errors import DriftloopError
from driftloop.core.settings import ApiSettings, Role

ROLES: tuple[Role, ...] = get_args(Role)
SHORTEST = 16
"""Characters of a token: fewer could be guessed."""
GUESSES = 60
"""Wrong tokens a minute from one address, after which it has to wait."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

bearer = HTTPBearer(auto_error=False, description="A token of DRIFTLOOP_API__TOKENS; none where that is empty.")


@dataclass(frozen=True)
class Caller:
    """Somebody who calls."""

    name: str
    """Empty for one without a token."""
    role: Role
    address: str

    def may(self, role: Role) -> bool:
        """Whether this is at least a ``role``."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Authenticator:
    """Everybody who may call.

    Raises:
        DriftloopError: a token of the settings is not one; the text says which, without showing it.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._known = [_read(number, entry) for number, entry in enumerate(settings.tokens, 1)]
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    @property
    def anonymous(self) -> Role:
        """What somebody without a token may do."""
        if self._settings.anonymous is not None:
            return self._settings.anonymous
        if self._known:
            return "nobody"
        return "admin" if is_loopback(self._settings.address) else "viewer"

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names under which browsers may find the server; empty for any."""
        return self._settings.hosts or (LOOPBACK if is_loopback(self._settings.address) else ())

    def find(self, token: str | None, address: str) -> Caller:
        """Who has this token; the caller without one where it is None.

        Raises:
            HTTPException: 401 for a token that nobody has, 429 after too many of those.
        """
        if token is None:
            return Caller("", self.anonymous, address)
        digest = _digest(token)
        for name, role, known in self._known:
            if hmac.compare_digest(digest, known):
                return Caller(name, role, address)
        self._count("wrong tokens", address, min(GUESSES, self._settings.rate), 1)
        raise HTTPException(401, "Nobody has this token.", headers={"WWW-Authenticate": "Bearer"})

    def charge(self, caller: Caller, texts: int = 0) -> None:
        """Count a request, or the ``texts`` in one.

        Raises:
            HTTPException: 429 where it is one too many.
        """
        what, number = ("texts", texts) if texts else ("requests", 1)
        self._count(what, caller.name or caller.address, self._settings.rate, number)

    def require_role(self, role: Role) -> Any:
        """A dependency of an endpoint: the caller, who has this role or a higher one. The API's manual says so."""

        def check(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
        ) -> Caller:
            address = address_of(request)
            # Whoever shows something that is no token means to be somebody.
            shown = given.credentials if given else request.headers.get("authorization")
            caller = self.find(shown, address)
            self.charge(caller)
            if caller.may(role):
                return caller
            if shown is None:
                raise HTTPException(
                    401, f"This needs a token with the role {role}.", headers={"WWW-Authenticate": "Bearer"}
                )
            raise HTTPException(403, f"{caller.name} is {_a(caller.role)}, and this needs {_a(role)}.")

        return Security(check, scopes=[role])

    def _count(self, what: str, who: str, most: int, number: int) -> None:
        if not self._settings.rate:
            return
        limit = RateLimitItemPerMinute(most)
        if number > most or not self._limiter.hit(limit, what, who, cost=number):
            wait = max(1, int(self._limiter.get_window_stats(limit, what, who).reset_time - time.time()) + 1)
            raise HTTPException(
                429, f"More than {most} {what} a minute: try again in {wait} s.", headers={"Retry-After": str(wait)}
            )


def address_of(request: Request) -> str:
    """Where a request comes from; empty where the server does not say."""
    return request.client.host if request.client else ""


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _read(number: int, entry: str) -> tuple[str, Role, bytes]:
    """Name, role and digest of the token."""
    name, _, rest = entry.partition(":")
    role, _, token = rest.partition(":")
    if not name.strip() or role not in ROLES or len(token) < SHORTEST:
        raise DriftloopError(
            f"Entry {number} of DRIFTLOOP_API__TOKENS is not NAME:ROLE:TOKEN with a role of {', '.join(ROLES[1:])} and "
            f"a token of {SHORTEST} characters or more: correct it."
        )
    return name.strip(), role, _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _a(role: str) -> str:
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
