"""Widgets of the dashboard's panels. All text is sent to the browser as text, never as markup."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from fastapi import HTTPException
from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from driftloop.core.terminal_text import escape_control_chars
from serving.cases.reasons import first_sentence, has_more

LONG, LONGEST = 600, 4000
"""Largest numbers of characters of a text, and of a full reason."""


def label(text: str, classes: str = "") -> ui.label:
    """Add a text on one line with its control characters escaped.

    Args:
        text: The text, also untrusted text.
        classes: CSS classes.
    """
    return ui.label(escape_control_chars(text, LONG)).classes(classes)


def cell(text: str, tag: str = "td") -> TextElement:
    """Add a table cell with its control characters escaped.

    Args:
        text: The text, also untrusted text.
        tag: HTML element of the cell.
    """
    return TextElement(tag=tag, text=escape_control_chars(text, LONG))


@contextmanager
def panel(title: str, note: str = "", classes: str = "") -> Iterator[ui.element]:
    """Add a panel with a heading. Elements made in the block are in it.

    Args:
        title: The heading.
        note: Text beside the heading.
        classes: CSS classes.
    """
    with ui.element("section").classes(f"panel {classes}").props(f'aria-label="{title}"') as made:
        with ui.element("div").classes("panel-head"):
            ui.label(title).classes("title").props("role=heading aria-level=2")
            if note:
                ui.label(note).classes("dim")
        yield made


@contextmanager
def rows(caption: str, head: Sequence[str]) -> Iterator[None]:
    """Add a table. Its rows are made in the block.

    Args:
        caption: Name of the table for a screen reader.
        head: Texts of the header.
    """
    region = ui.element("div").classes("scroll").props(f'tabindex=0 role=group aria-label="{caption}"')
    with region, ui.element("table"):
        with ui.element("thead"), ui.element("tr"):
            for text in head:
                cell(text, "th").props("scope=col")
        with ui.element("tbody"):
            yield


def table(caption: str, head: Sequence[str], texts: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> None:
    """Add a table of texts.

    Args:
        caption: Name of the table for a screen reader.
        head: Texts of the header.
        texts: Texts of each row.
        marked: Numbers of the highlighted rows, from 0.
    """
    with rows(caption, head):
        for at, row in enumerate(texts):
            with ui.element("tr").classes("marked" if at in marked else ""):
                for text in row:
                    cell(text)


def reason(text: str, classes: str = "") -> None:
    """Add a reason: its first sentence, and the whole text in an expandable element if it is longer.

    Args:
        text: The reason, also untrusted text.
        classes: CSS classes of the first sentence.
    """
    label(first_sentence(text), classes)
    if has_more(text):
        with ui.element("details").classes("more"):
            TextElement(tag="summary", text="Full reason")
            ui.label(escape_control_chars(text, LONGEST))


def button(text: str = "", then: Callable[[], object] | None = None, name: str = "") -> ui.button:
    """Add a button.

    Args:
        text: Text on the button.
        then: Action on a click; its HTTP errors are shown to the user.
        name: Name for a screen reader if the text alone is not clear.
    """
    # Without a colour: Quasar's own has too little contrast.
    made = ui.button(escape_control_chars(text, 60), color=None).props("flat dense no-caps")
    if then is not None:
        made.on_click(lambda: run_action(then))
    if name:
        made.props["aria-label"] = escape_control_chars(name, 200)
    return made


async def run_action(then: Callable[[], object]) -> None:
    """Run an action of the user. Show its HTTP error as a notification."""
    try:
        waited = then()
        if isinstance(waited, Awaitable):
            await waited
    except HTTPException as error:
        ui.notify(escape_control_chars(str(error.detail), LONG), type="negative")


async def ignore_http_errors(then: Callable[[], Awaitable[None]]) -> None:
    """Run an action that is repeated soon. An unavailable service is reported elsewhere."""
    with suppress(HTTPException):
        await then()


def share(value: float | None) -> str:
    """Return a share with three decimal places; a dash if it is unknown."""
    return "–" if value is None else f"{value:.3f}"
