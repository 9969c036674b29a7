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
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = f"driftloop {release}"
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Write the reference before anything is read."""
    from reference_pages import write

    app.connect("builder-inited", lambda _app: write(HERE / "reference"))
