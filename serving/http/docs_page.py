"""The API's manual at `/docs`: Swagger UI, from an installed package, with nothing from elsewhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

from serving.http.middleware import NO_SNIFFING

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>driftloop: the API</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="manual"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""
_START = "SwaggerUIBundle({url: 'openapi.json', dom_id: '#manual', deepLinking: true});\n"
FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
# Swagger UI writes styles into its elements, and draws with pictures that it has in itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router() -> APIRouter:
    """The page and what it loads."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={**NO_SNIFFING, "Content-Security-Policy": POLICY})

    @routes.get("/docs/start.js")
    def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=NO_SNIFFING)

    @routes.get("/docs/{name}")
    def asset(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(_assets() / name, headers={"X-Content-Type-Options": "nosniff"})

    return routes


def _assets() -> Path:
    """Where the package has its files; it need not be imported for that."""
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise HTTPException(404, "The manual's files are not installed: pip install 'driftloop[serve]'.")
    return Path(found.origin).parent / "static"
