"""Authentication, roles and rate limits of the API's clients."""

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
"""From the fewest rights to the most."""
SHORTEST = 16
"""Characters of the shortest token; a shorter one could be guessed."""
GUESSES = 60
"""Unknown tokens per minute and address before the address is blocked."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

bearer = HTTPBearer(auto_error=False, description="A token of DRIFTLOOP_API__TOKENS. Leave it out if none is set.")


@dataclass(frozen=True)
class Caller:
    """A client of the API."""

    name: str
    """Name of its token; empty without a token."""
    role: Role
    address: str

    def may(self, role: Role) -> bool:
        """Return True if the client has this role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Authenticator:
    """Known tokens and the rate limits of their clients.

    Raises:
        DriftloopError: A token of the settings is malformed. The message names its number, not its text.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._known = [_parse_token(number, entry) for number, entry in enumerate(settings.tokens, 1)]
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    @property
    def anonymous(self) -> Role:
        """Role of a client without a token."""
        if self._settings.anonymous is not None:
            return self._settings.anonymous
        if self._known:
            return "nobody"
        return "admin" if is_loopback(self._settings.address) else "viewer"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names under which the server may be called; empty for any."""
        return self._settings.hosts or (LOOPBACK if is_loopback(self._settings.address) else ())

    def identify(self, token: str | None, address: str) -> Caller:
        """Return the client with a token.

        Args:
            token: The token; `None` for an anonymous client.
            address: Network address of the client.

        Raises:
            HTTPException: 401 for an unknown token; 429 after too many of them.
        """
        if token is None:
            return Caller("", self.anonymous, address)
        digest = _digest(token)
        for name, role, known in self._known:
            if hmac.compare_digest(digest, known):
                return Caller(name, role, address)
        self._count("wrong tokens", address, min(GUESSES, self._settings.rate), 1)
        raise HTTPException(401, "This token is unknown.", headers={"WWW-Authenticate": "Bearer"})

    def count_request(self, caller: Caller, texts: int = 0) -> None:
        """Count one request, or the texts of a request, against the rate limit.

        Args:
            caller: The client.
            texts: Texts to score; `0` counts a request instead.

        Raises:
            HTTPException: 429 if the limit is exceeded.
        """
        kind, number = ("texts", texts) if texts else ("requests", 1)
        self._count(kind, caller.name or caller.address, self._settings.rate, number)

    def require_role(self, role: Role) -> Any:
        """Return an endpoint's dependency that yields the client if it has this role or a higher one."""

        def check(
            request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None
        ) -> Caller:
            address = address_of(request)
            # A malformed authorization header is an unknown token, not an anonymous client.
            token = given.credentials if given else request.headers.get("authorization")
            caller = self.identify(token, address)
            self.count_request(caller)
            if caller.may(role):
                return caller
            if token is None:
                raise HTTPException(
                    401, f"This needs a token with the role {role}.", headers={"WWW-Authenticate": "Bearer"}
                )
            raise HTTPException(403, f"{caller.name} is {_article(caller.role)}, and this needs {_article(role)}.")

        return Security(check, scopes=[role])

    def _count(self, kind: str, client: str, most: int, number: int) -> None:
        """Count something against a limit per minute.

        Raises:
            HTTPException: 429 if the limit is exceeded.
        """
        if not self._settings.rate:
            return
        limit = RateLimitItemPerMinute(most)
        if number > most or not self._limiter.hit(limit, kind, client, cost=number):
            reset = self._limiter.get_window_stats(limit, kind, client).reset_time
            wait = max(1, int(reset - time.time()) + 1)
            raise HTTPException(
                429, f"More than {most} {kind} a minute: try again in {wait} s.", headers={"Retry-After": str(wait)}
            )


def address_of(request: Request) -> str:
    """Return the network address of a request's client; empty if the server does not know it."""
    return request.client.host if request.client else ""


def is_loopback(address: str) -> bool:
    """Return True if only this machine can reach the address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _parse_token(number: int, entry: str) -> tuple[str, Role, bytes]:
    """Return the name, the role and the token's digest of one entry of the settings."""
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


def _article(role: str) -> str:
    """Return the role with its article."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
