"""Report as one web page: no script, nothing loaded from elsewhere, light and dark, for narrow screens and paper."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from itertools import count

from serving.report.document import (
    Block,
    Bullets,
    Chapter,
    Details,
    Document,
    Figure,
    Heading,
    Note,
    Pairs,
    Paragraph,
    Table,
)
from serving.report.svg_cleanup import COLOURS

DARK = {
    "ink": "#e4e7ee", "dim": "#a3acbd", "line": "#343a46", "paper": "#12151c", "blue": "#86b7ff", "red": "#ff8a80",
    "green": "#7fd89a", "orange": "#f2a65a", "violet": "#d0a6ee", "pale": "#2c4568",
}  # fmt: skip
"""Colours of a dark page. Those of text have a contrast of 4.5 or more."""


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


def _recolour() -> str:
    """Return rules that replace the colours of drawings, which stand in attributes."""
    return "\n".join(
        f'svg [{kind}="{value}"] {{ {kind}: var(--{name}); }}'
        for name, value in COLOURS.items()
        for kind in ("fill", "stroke")
    )


STYLE = f"""
:root {{ color-scheme: light dark; {_variables(COLOURS)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main, header, nav {{ max-width: 54rem; margin: 0 auto; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 1rem 0 0.4rem; }}
h2 {{ font-size: 1.4rem; line-height: 1.25; margin: 3rem 0 0.8rem; padding-top: 0.8rem;
  border-top: 2px solid var(--line); }}
h3 {{ font-size: 1.1rem; margin: 1.8rem 0 0.5rem; }}
h2, h3, p, li, td, th, dd, figcaption, caption {{ overflow-wrap: anywhere; }}
.subtitle {{ font-size: 1.15rem; margin: 0; }} .date, figcaption, caption {{ color: var(--dim); }}
nav ol {{ columns: 2; column-gap: 2rem; padding-left: 1.4rem; }} a {{ color: var(--blue); }}
.wide {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: 0.88rem; line-height: 1.4; }}
caption {{ text-align: left; padding-bottom: 0.4rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.3rem 0.9rem 0.3rem 0;
  border-bottom: 1px solid var(--line); }}
thead th {{ color: var(--dim); font-weight: 600; vertical-align: bottom; }}
tbody th {{ font-weight: 600; width: 24%; min-width: 7rem; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }}
td.text {{ min-width: 6rem; }}
figure {{ margin: 1.4rem 0; }} figure svg {{ width: 100%; height: auto; display: block; }}
figcaption, caption {{ font-size: 0.9rem; }}
svg text {{ font-family: system-ui, "DejaVu Sans", sans-serif; }}
details {{ margin: 0.6rem 0 1.2rem; }} summary {{ cursor: pointer; color: var(--blue); font-size: 0.95rem; }}
aside {{ border-left: 4px solid var(--red); padding: 0.2rem 1rem; margin: 1.2rem 0; }}
{_recolour()}
@media (max-width: 40rem) {{ nav ol {{ columns: 1; }} h1 {{ font-size: 1.5rem; }}
  .drawing {{ overflow-x: auto; }} .drawing svg {{ min-width: 34rem; }} }}
@media print {{ :root {{ color-scheme: light; {_variables(COLOURS)} }}
  body {{ padding: 0; background: none; font-size: 10pt; }}
  .wide, .drawing {{ overflow: visible; }} figure, tr, aside {{ break-inside: avoid; }}
  h2, h3, caption {{ break-after: avoid; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }} }}
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="author" content="{author}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
<p class="date">{date}</p></header>
<nav aria-label="Contents"><ol>
{contents}
</ol></nav>
<main>
{body}
</main>
</body>
</html>
"""


def render(document: Document) -> str:
    """Return the page. All text is escaped, also text from the stream."""
    figures, tables = count(1), count(1)
    body = "\n".join(_chapter(number, one, figures, tables) for number, one in enumerate(document.chapters, 1))
    contents = "\n".join(
        f'<li><a href="#chapter-{number}">{_text(one.title)}</a></li>'
        for number, one in enumerate(document.chapters, 1)
    )
    return PAGE.format(
        policy=escape(content_security_policy()),
        author=_text(document.author),
        title=_text(document.title),
        subtitle=_text(document.subtitle),
        date=_text(document.date),
        style=STYLE,
        contents=contents,
        body=body,
    )


def content_security_policy() -> str:
    """Return the policy of the page: its own style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _chapter(number: int, chapter: Chapter, figures: Iterator[int], tables: Iterator[int]) -> str:
    head = (
        f'<section aria-labelledby="chapter-{number}">\n<h2 id="chapter-{number}">{number}. {_text(chapter.title)}</h2>'
    )
    return "\n".join([head, *(_block(block, figures, tables) for block in chapter.blocks), "</section>"])


def _block(block: Block, figures: Iterator[int], tables: Iterator[int]) -> str:
    match block:
        case Heading(text):
            return f"<h3>{_text(text)}</h3>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{_item(lead, text)}</li>" for lead, text in items) + "\n</ul>"
        case Note(title, text):
            return f'<aside role="note"><p><strong>{_text(title)}.</strong> {_text(text)}</p></aside>'
        case Pairs(caption, rows):
            cells = "\n".join(
                f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>' for name, value in rows
            )
            return _wide(f"Table {next(tables)}. {caption}", f"<tbody>\n{cells}\n</tbody>")
        case Table():
            return _table(f"Table {next(tables)}. {block.caption}", block)
        case Figure(caption, alt, svg):
            drawing = svg.replace("<svg ", f'<svg role="img" aria-label="{_text(alt)}" ', 1)
            below = f"<figcaption>{_text(f'Figure {next(figures)}. {caption}')}</figcaption>"
            return f'<figure>\n<div class="drawing">{drawing}</div>\n{below}\n</figure>'
        case Details(summary, blocks):
            inner = "\n".join(_block(one, figures, tables) for one in blocks)
            return f"<details>\n<summary>{_text(summary)}</summary>\n{inner}\n</details>"


def _item(lead: str, text: str) -> str:
    return f"<strong>{_text(lead)}:</strong> {_text(text)}" if lead else _text(text)


def _table(caption: str, table: Table) -> str:
    heads = "".join(f'<th scope="col" class="{one.kind}">{_text(one.head)}</th>' for one in table.columns)
    kinds = [one.kind for one in table.columns]
    rows = "\n".join(f"<tr>{_cells(row, kinds)}</tr>" for row in table.rows)
    return _wide(caption, f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>")


def _cells(row: Sequence[str], kinds: Sequence[str]) -> str:
    return "".join(f'<td class="{kind}">{_text(cell)}</td>' for cell, kind in zip(row, kinds, strict=True))


def _wide(caption: str, inside: str) -> str:
    """Return a table in a region that scrolls on a narrow screen, also with the keyboard."""
    label = _text(caption)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">\n'
        f"<table><caption>{label}</caption>\n{inside}\n</table></div>"
    )


def _text(value: str) -> str:
    return escape(value)
