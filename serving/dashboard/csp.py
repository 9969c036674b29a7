"""What a browser may do with the live page: the strictest content security policy that NiceGUI bears."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_PAGE = "x-nicegui-content"
"""The header by which NiceGUI says that an answer is a page."""
_SCRIPT = re.compile(rb"<script(?=[\s>])")


def policy(nonce: str) -> str:
    """Nothing from elsewhere, nothing in a frame, and no script but the server's own files and those with the nonce.

    NiceGUI's page begins with scripts of its own, which get the nonce. Vue makes components out of their templates in
    the browser, with eval; Vue, Quasar and ECharts add style sheets as they go.
    """
    return (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )


class Policed:
    """ASGI middleware around NiceGUI's application: a fresh nonce for each page, in its scripts and in its policy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
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
                headers["Referrer-Policy"] = "same-origin"  # or a form would be of no origin
                if IS_PAGE in headers:
                    head = message  # until the whole page is there
                    return
            elif head is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                message = {"type": "http.response.body", "body": _sealed(head, bytes(body))}
                await send(head)
            await send(message)

        await self._app(scope, receive, answer)


def _sealed(head: Message, page: bytes) -> bytes:
    """The page with a nonce in its scripts; ``head`` gets the policy. Text in a page has no bare ``<`` in NiceGUI."""
    nonce = secrets.token_urlsafe(16)
    sealed = _SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), page)
    headers = MutableHeaders(raw=head["headers"])
    headers["Content-Security-Policy"] = policy(nonce)
    headers["Content-Length"] = str(len(sealed))
    return sealed
