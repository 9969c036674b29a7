"""Pieces that the live page's panels are put together from. All text goes into the browser as text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from fastapi import HTTPException
from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from driftloop.core.terminal_text import escape_control_chars

LONG = 600


def label(text: str, classes: str = "") -> ui.label:
    """Text on one line, with what would steer a reader written out."""
    return ui.label(escape_control_chars(text, LONG)).classes(classes)


def cell(text: str, tag: str = "td") -> TextElement:
    """The same in a table."""
    return TextElement(tag=tag, text=escape_control_chars(text, LONG))


@contextmanager
def panel(title: str, note: str = "", classes: str = "") -> Iterator[ui.element]:
    """A part of the page with a heading; whatever is made in the block is in it."""
    with ui.element("section").classes(f"panel {classes}").props(f'aria-label="{title}"') as made:
        with ui.element("div").classes("panel-head"):
            ui.label(title).classes("title").props("role=heading aria-level=2")
            if note:
                ui.label(note).classes("dim")
        yield made


@contextmanager
def rows(caption: str, head: Sequence[str]) -> Iterator[None]:
    """A table with this head; the rows are made in the block."""
    region = ui.element("div").classes("scroll").props(f'tabindex=0 role=group aria-label="{caption}"')
    with region, ui.element("table"):
        with ui.element("thead"), ui.element("tr"):
            for text in head:
                cell(text, "th").props("scope=col")
        with ui.element("tbody"):
            yield


def table(caption: str, head: Sequence[str], texts: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> None:
    """A table of texts; the rows with the numbers ``marked`` stand out."""
    with rows(caption, head):
        for at, row in enumerate(texts):
            with ui.element("tr").classes("marked" if at in marked else ""):
                for text in row:
                    cell(text)


def button(text: str = "", then: Callable[[], object] | None = None, name: str = "") -> ui.button:
    """A button; ``name`` is what a screen reader says where the text is too short. What is in its way is shown."""
    # Without a colour: Quasar's own has too little contrast.
    made = ui.button(escape_control_chars(text, 60), color=None).props("flat dense no-caps")
    if then is not None:
        made.on_click(lambda: said(then))
    if name:
        made.props["aria-label"] = escape_control_chars(name, 200)
    return made


async def said(then: Callable[[], object]) -> None:
    """Do what a person wants; what is in its way is shown to them."""
    try:
        waited = then()
        if isinstance(waited, Awaitable):
            await waited
    except HTTPException as error:
        ui.notify(escape_control_chars(str(error.detail), LONG), type="negative")


async def quietly(then: Callable[[], Awaitable[None]]) -> None:
    """Do what can be done again a moment later; a service that is away is seen elsewhere."""
    with suppress(HTTPException):
        await then()


def share(value: float | None) -> str:
    """A share with three digits, a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
