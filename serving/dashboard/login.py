"""Login to the dashboard. A browser sends its token once in a form, and then in a cookie that scripts cannot read."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from serving.http.auth import Authenticator, Caller, address_of
from serving.http.middleware import NO_SNIFFING

COOKIE = "driftloop_token"
HOURS = 12
"""Lifetime of the cookie in hours."""
_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:0;padding:10vh 1.5rem}"
    "main{max-width:24rem;margin:auto}label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}"
    "input,button{padding:.6rem;margin:.4rem 0 1rem}"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>driftloop: log in</title><link rel="stylesheet" href="login.css"></head>
<body><main><h1>driftloop</h1><form method="post" action="login">
<label for="token">Access token (one of DRIFTLOOP_API__TOKENS)</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Log in</button></form><p role="alert">{error}</p></main></body></html>
"""
_POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def find_viewer(authenticator: Authenticator, request: Request) -> Caller | None:
    """Return the client of a request for the page; `None` without a valid token.

    Args:
        authenticator: The known tokens and their limits.
        request: The request, with the token in a cookie.

    Raises:
        HTTPException: 429 for too many requests.
    """
    try:
        caller = authenticator.identify(request.cookies.get(COOKIE), address_of(request))
    except HTTPException as error:
        if error.status_code == 401:
            return None
        raise
    authenticator.count_request(caller)
    return caller if caller.may("viewer") else None


def router(authenticator: Authenticator) -> APIRouter:
    """Return the routes of the login form, login and logout."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    def form() -> HTMLResponse:
        return _page("", 200)

    @routes.get("/login.css")
    def style() -> Response:
        return Response(_STYLE, media_type="text/css", headers=NO_SNIFFING)

    @routes.post("/login")
    async def login(request: Request) -> Response:
        token = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=5).get("token", [""])[0]
        try:
            authenticator.identify(token, address_of(request))
        except HTTPException as error:
            return _page(str(error.detail), error.status_code)
        answer = RedirectResponse("./", 303, headers=NO_SNIFFING)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, token, max_age=HOURS * 3600, httponly=True, samesite="strict", secure=secure)
        return answer

    @routes.post("/logout")
    def logout() -> Response:
        answer = RedirectResponse("login", 303, headers=NO_SNIFFING)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    return routes


def _page(error: str, status: int) -> HTMLResponse:
    """Return the form; ``error`` is a sentence of the server and contains no untrusted text."""
    # Without a referrer the form would have no origin.
    headers = {**NO_SNIFFING, "Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(_PAGE.replace("{error}", error), status, headers=headers)
