"""The site is built without a warning, from nothing but the code and the pages, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from driftloop.cli import parser
from driftloop.cli.diagnostics import list_settings
from driftloop.core import topics
from driftloop.core.settings import Settings
from serving.simulation.summary import Summary
from tests.docs.snippets import ROOT, SITE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "read")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Addresses(HTMLParser):
    """What a page loads, what it links to, and the places in it that can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])


def pages(site: Path) -> dict[Path, Addresses]:
    return {page: Addresses(page) for page in site.rglob("*.html")}


def test_site_loads_only_its_own_files(site: Path) -> None:
    found = pages(site)
    assert len(found) > len(SITE) + 5
    for page, addresses in found.items():
        assert addresses.loaded and not [one for one in addresses.loaded if "//" in one], page
        for one in addresses.loaded:
            assert (page.parent / unquote(urlsplit(one).path)).is_file(), f"{page}: {one}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_internal_links_have_targets(site: Path) -> None:
    found = pages(site)
    for page, addresses in found.items():
        for link in addresses.linked:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
            assert target.is_file(), f"{page.relative_to(site)}: {link}"
            if parts.fragment and target in found:
                assert unquote(parts.fragment) in found[target].places, f"{page.relative_to(site)}: {link}"


def test_reference_lists_commands_settings_topics_and_roles(site: Path) -> None:
    def words(name: str) -> str:
        page = (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        return re.sub(r"</?(span|code)[^>]*>", "", page)

    commands, http = words("commands"), words("http")
    (verbs,) = (one.choices for one in parser.build()._actions if one.dest == "verb" and one.choices)
    assert len(verbs) > 15 and all(f"usage: driftloop {verb} " in commands for verb in verbs)
    assert all(one.variable in words("settings") for one in list_settings(Settings()))
    assert all(f'id="{topic.name}"' in words("topics") for topic in topics.ALL)
    assert all(f"<td><p>{field}</p></td>" in words("results") for field in Summary.__struct_fields__)
    roles = {"POST /v1/feedback": "annotator", "POST /v1/predict": "viewer", "GET /health": "anybody"}
    for request, role in roles.items():
        row = http[http.index(request) :].partition("</tr>")[0]
        assert f">{role}<" in row, row
    assert 'id="stream_processors.drift.detectors.Detector.update"' in words("python")


def test_markdown_links_point_to_existing_files() -> None:
    for page in [*SITE, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            path = page.parent / link
            assert "//" in link or path.exists() or path.parent.name == "reference", f"{page.name}: {link}"
