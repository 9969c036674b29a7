"""API documentation page at `/docs`: Swagger UI, with all files from an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

from serving.http.middleware import NO_SNIFFING

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>driftloop API</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="manual"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""
_START = "SwaggerUIBundle({url: 'openapi.json', dom_id: '#manual', deepLinking: true});\n"
FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
# Swagger UI uses inline styles and images from data URLs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router() -> APIRouter:
    """Return the routes of the page and its files."""
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
    """Return the folder of the package's files, without an import of the package.

    Raises:
        HTTPException: 404 if the package is not installed.
    """
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        raise HTTPException(404, "The documentation page is not installed. Run pip install 'driftloop[serve]'.")
    return Path(found.origin).parent / "static"
