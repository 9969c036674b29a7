"""Content security policy of the dashboard: the strictest one with which NiceGUI works."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_PAGE = "x-nicegui-content"
"""Header with which NiceGUI marks a response as a page."""
_SCRIPT = re.compile(rb"<script(?=[\s>])")


def content_security_policy(nonce: str) -> str:
    """Return a policy without other hosts or frames. Scripts are the server's own files and those with the nonce.

    The scripts inside NiceGUI's page get the nonce. Vue compiles templates in the browser with eval. Vue, Quasar and
    ECharts add style sheets at run time.
    """
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


class CspMiddleware:
    """ASGI middleware for NiceGUI: a new nonce for each page, in its scripts and in its policy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; a page is held back until it is complete and has its nonce."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        body = bytearray()

        async def answer(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"  # without it, a form has no origin
                if IS_PAGE in headers:
                    head = message  # sent when the page is complete
                    return
            elif head is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body", "body": _add_nonce(head, bytes(body))}
                await send(head)
            await send(message)

        await self._app(scope, receive, answer)


def _add_nonce(head: Message, page: bytes) -> bytes:
    """Return the page with a nonce in its scripts; ``head`` gets the policy. NiceGUI escapes every ``<`` in text."""
    nonce = secrets.token_urlsafe(16)
    with_nonce = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), page)
    headers = MutableHeaders(raw=head["headers"])
    headers["Content-Security-Policy"] = content_security_policy(nonce)
    headers["Content-Length"] = str(len(with_nonce))
    return with_nonce
