"""The live page at `/`: the loop as it is now, for people who watch it and people who correct it.

It is built with NiceGUI, whose every file comes from its package. The server keeps the page's state and sends what has
changed; nothing that came from a topic is ever markup or script in it.
"""

from __future__ import annotations

import nicegui
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import ui
from starlette.routing import Match

from serving.dashboard import login
from serving.dashboard.csp import Policed
from serving.dashboard.layout import LivePage
from serving.dashboard.snapshots import Snapshots
from serving.http.middleware import problem
from serving.routes import AppContext

ICON = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4" fill="#14609f"/></svg>'


def mount(app: FastAPI, parts: AppContext) -> None:
    """Put the page and what it loads under ``app``, after all other routes: it answers for whatever they do not."""
    pictures = Snapshots(parts)
    app.include_router(login.router(parts.callers))
    nicegui.app.add_middleware(Policed)

    @nicegui.app.exception_handler(404)
    def unknown(request: Request, error: Exception) -> Response:
        """NiceGUI's own answer is a page, with state on the server, for each address that is tried."""
        # It is asked for what fits an endpoint but for the method, too.
        if any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.routes):
            return problem(405, "This address does not take that method.", request.url.path)
        return problem(404, f"There is nothing at {request.url.path[:200]!r}.", request.url.path)

    @ui.page("/", title="driftloop", language="en-US", dark=None)
    def live_page(request: Request) -> Response | None:
        caller = login.viewer(parts.callers, request)
        if caller is None:
            return RedirectResponse("login", 303)
        LivePage(parts, caller, pictures)
        return None

    ui.run_with(
        app,
        title="driftloop",
        favicon=ICON,
        language="en-US",
        dark=None,
        tailwind=False,
        reconnect_timeout=10,
        message_history_length=100,
        show_welcome_message=False,
    )
