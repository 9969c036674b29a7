"""How Sphinx makes the site of these pages: `make docs`. The reference is written anew from the code each time."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import driftloop  # noqa: E402 - found by the path above

project = "driftloop"
author = "the driftloop authors"
release = driftloop.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["examples"]
default_role = "code"
myst_heading_anchors = 3
autodoc_class_signature = "separated"  # of a protocol it says nothing; of a struct it is the fields once more
autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "__init__"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = f"driftloop {release}"
html_theme_options = {"top_of_page_buttons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = html_copy_source = False
COLON = "\ue000"
"""For a colon in a field's docstring while napoleon reads it, which takes what stands before one for a type."""


def setup(app: Sphinx) -> None:
    """Write the reference before anything is read."""
    from reference_pages import write

    def colons(old: str, new: str, what: str, lines: list[str]) -> None:
        if what in ("attribute", "property"):
            lines[:] = [line.replace(old, new) for line in lines]

    app.connect("builder-inited", lambda _app: write(HERE / "reference"))
    app.connect("autodoc-process-docstring", lambda *told: colons(":", COLON, told[1], told[5]), priority=400)
    app.connect("autodoc-process-docstring", lambda *told: colons(COLON, ":", told[1], told[5]), priority=600)
