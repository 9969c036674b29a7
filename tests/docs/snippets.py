"""The snippets of the pages: every block of code, what runs it, and a shell that does.

The first word after the backticks is the language, the second says how it is run:

``sh``              in the page's shell, one after the other
``sh elsewhere``    what the reader starts in another terminal; the fixture that the page asks for has done it
``sh long``         minutes to hours: its commands exist, and take these options
``sh containers``   wants a container engine: `make test-compose` runs it
``sh yours``        on machines of the reader's: it is well-formed, and driftloop's own commands in it are understood
``python``          in the page's folder
``pycon``           by doctest
``toml scenario``   read as a part of a scenario, and ``toml settings`` of the settings, ``toml project`` of a package
``text``            a picture, or what a command says
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
SITE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "kubernetes" / "README.md", *SITE]
KINDS = {
    "sh",
    "sh elsewhere",
    "sh long",
    "sh containers",
    "sh yours",
    "python",
    "pycon",
    "toml scenario",
    "toml settings",
    "toml project",
    "text",
    "{toctree}",
}
END = "\x1e"


@dataclass(frozen=True)
class Snippet:
    """A block of a page."""

    page: Path
    line: int
    kind: str
    """Empty: it is indented, and nobody says what it is."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def of(page: Path, *kinds: str) -> list[Snippet]:
    """The blocks of a page, those of some kinds alone where they are given."""
    found = [
        Snippet(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type in ("fence", "code_block") and token.map
    ]
    return [one for one in found if not kinds or one.kind in kinds]


def everywhere(*kinds: str) -> list[Snippet]:
    """Those blocks of all pages."""
    return [one for page in PAGES for one in of(page, *kinds)]


class Shell:
    """One bash for the blocks of a page; a command that fails ends it, and the test.

    What would follow a stream for ever (`driftloop watch` without --max, `curl -N`) is stopped, and has to say a line.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], exchanged: Mapping[str, str]) -> None:
        self._folder = folder
        self._exchanged = exchanged
        python = str(ROOT / ".venv" / "bin")
        self._bash = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail"],
            cwd=folder,
            env={**os.environ, **environ, "PATH": python + os.pathsep + os.environ["PATH"], "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._say(FOLLOW)

    def run(self, snippet: Snippet) -> str:
        """Run a block and return what it said."""
        text = snippet.text
        for old, new in self._exchanged.items():
            text = text.replace(old, new)
        if snippet.kind == "python":
            script = self._folder / f"line_{snippet.line}.py"
            script.write_text(text, encoding="utf-8")
            text = f"python {script}\n"
        lines = [f"follow {line}" if _is_endless(line) else line for line in text.splitlines()]
        self._say("\n".join(lines) + f"\nprintf '{END}\\n'\n")
        said = []
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            if line.endswith(END + "\n"):
                return "".join(said) + line[: -len(END) - 1]
            said.append(line)
        raise AssertionError(f"{snippet} ended with {self._bash.wait()}:\n{text}\n{''.join(said)[-4000:]}")

    def close(self) -> None:
        """End it."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait(30)

    def _say(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text)
        self._bash.stdin.flush()


def _is_endless(line: str) -> bool:
    return line.startswith("curl -N") or (line.startswith("driftloop watch") and "--max" not in line)


FOLLOW = """
follow() {
  set +o pipefail
  timeout --signal=INT 20 "$@" | head -n 1 | grep .
  local status=$?
  set -o pipefail
  return $status
}
"""
