"""Who looks at the live page: a browser shows its token once, in a form, and then in a cookie that no script sees."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from serving.http.auth import Authenticator, Caller, address_of
from serving.http.middleware import NO_SNIFFING

COOKIE = "driftloop_token"
HOURS = 12
"""For which a browser keeps the token."""
_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;margin:0;padding:10vh 1.5rem}"
    "main{max-width:24rem;margin:auto}label,input,button{display:block;width:100%;box-sizing:border-box;font:inherit}"
    "input,button{padding:.6rem;margin:.4rem 0 1rem}"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>driftloop: who are you?</title><link rel="stylesheet" href="login.css"></head>
<body><main><h1>driftloop</h1><form method="post" action="login">
<label for="token">Your token, one of DRIFTLOOP_API__TOKENS</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Show the live page</button></form><p role="alert">{said}</p></main></body></html>
"""
_POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


def viewer(callers: Authenticator, request: Request) -> Caller | None:
    """Who looks at the page, None for somebody who may not.

    Raises:
        HTTPException: 429 for one who asks too often.
    """
    try:
        caller = callers.find(request.cookies.get(COOKIE), address_of(request))
    except HTTPException as error:
        if error.status_code == 401:
            return None
        raise
    callers.charge(caller)
    return caller if caller.may("viewer") else None


def router(callers: Authenticator) -> APIRouter:
    """The form, and what it leads to."""
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
            callers.find(token, address_of(request))
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


def _page(said: str, status: int) -> HTMLResponse:
    """The form; ``said`` is one of the server's own sentences."""
    # Without the referrer the form would come from no origin.
    headers = {**NO_SNIFFING, "Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(_PAGE.replace("{said}", said), status, headers=headers)
