"""Dashboard at `/`, the live page: the state of the loop, labels by annotators, and commands by administrators.

It is built with NiceGUI, which serves all files from its package. The server keeps the state of the page and sends the
changes. Text from a topic is never markup or script.
"""

from __future__ import annotations

import nicegui
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import ui
from starlette.routing import Match

from serving.dashboard import login
from serving.dashboard.csp import CspMiddleware
from serving.dashboard.layout import LivePage
from serving.dashboard.snapshots import Snapshots
from serving.http.middleware import problem
from serving.routes import AppContext

ICON = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="4" fill="#14609f"/></svg>'


def mount(app: FastAPI, context: AppContext) -> None:
    """Add the dashboard to the application. Call it after all other routes, because it handles the remaining addresses.

    Args:
        app: The application.
        context: The objects that the routes share.
    """
    snapshots = Snapshots(context)
    app.include_router(login.router(context.authenticator))
    nicegui.app.add_middleware(CspMiddleware)

    @nicegui.app.exception_handler(404)
    def unknown(request: Request, error: Exception) -> Response:
        # NiceGUI would create a page with state on the server for each unknown address. A known address with another
        # method arrives here, too.
        if any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.routes):
            return problem(405, "This address does not support that method.", request.url.path)
        return problem(404, f"There is nothing at {request.url.path[:200]!r}.", request.url.path)

    @ui.page("/", title="driftloop", language="en-US", dark=None)
    def live_page(request: Request) -> Response | None:
        caller = login.find_viewer(context.authenticator, request)
        if caller is None:
            return RedirectResponse("login", 303)
        LivePage(context, caller, snapshots)
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
