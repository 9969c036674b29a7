"""The live page: the terminal's view as HTML that reloads itself, without a line of script."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from rich.console import Console

from driftloop.text import visible
from serving.live import Live
from serving.terminal import draw

RELOAD = 2
"""Seconds after which the browser asks again."""
WIDTH = 110

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fbfbfc; --link: #1457a8; --dim: #5b6474;
  --red: #b3261e; --green: #1c6e35; --cyan: #0b6a8a; --yellow: #7a5b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ee; --paper: #12151c; --link: #86b7ff; --dim: #9aa3b5;
  --red: #ff8a80; --green: #7fd89a; --cyan: #7ad0ee; --yellow: #e8c468; } }
body { margin: 0; padding: 1.2rem; background: var(--paper); color: var(--ink); }
main { max-width: 72rem; margin: auto; }
pre { overflow-x: auto; font: 0.85rem/1.35 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
p { font: 0.95rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
.bold { font-weight: bold; } .dim { color: var(--dim); } .red { color: var(--red); } .green { color: var(--green); }
.cyan { color: var(--cyan); } .yellow { color: var(--yellow); }
"""
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{reload}">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
<pre>{view}</pre>
<p>△ true drift, ▲ alert, ● promotion. <a href="v1/status">status</a> · <a href="metrics">metrics</a> ·
<a href="openapi.json">API</a></p>
</main></body>
</html>
"""


def render(live: Live) -> str:
    """The page as it is now; whatever came from a topic is text in it."""
    with live.lock:
        view = draw(live.board, WIDTH)
        title = f"driftloop v{visible(live.champion, 100)}" if live.champion else "driftloop"
    # The styles' names (red, dim) are classes of the style sheet.
    spans = [
        f'<span class="{part.style}">{escape(part.text)}</span>' if part.style else escape(part.text)
        for part in view.render(Console(width=WIDTH))
    ]
    return _HTML.format(reload=RELOAD, title=escape(title), style=_STYLE, view="".join(spans))


def content_security_policy() -> str:
    """Nothing but this very style sheet: no script, no picture, no frame, nothing from elsewhere."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
