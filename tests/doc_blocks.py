"""The fenced blocks of the documentation's pages, and how each is run.

The first word after the fence is the language (`sh`, `python`; others are only shown), the rest says how it is run:
nothing, `quick` (also by the tests), or `not-run: REASON`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
LANGUAGES = ("sh", "python")
NOT_RUN = "not-run:"


@dataclass(frozen=True)
class Block:
    """A block of a page: where it begins, what it is, and how it is run."""

    page: Path
    line: int
    language: str
    how: str
    text: str

    @property
    def where(self) -> str:
        """Page and line, as editors open them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        """It is run somewhere."""
        return self.language in LANGUAGES and not self.how.startswith(NOT_RUN)


def pages() -> list[Path]:
    """The README and every page of the site."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    found = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence" and not token.info.startswith("{"):
            language, _, how = token.info.strip().partition(" ")
            found.append(Block(page, token.map[0] + 1, language, how.strip(), token.content))
    return found


@contextlib.contextmanager
def page_folder(folder: Path) -> Iterator[Path]:
    """The working folder in which a page's blocks run: its own, with the examples where a checkout has them."""
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run one block in the current folder: a shell of its own for `sh`; `python` sees the names of those before it.

    Raises:
        RuntimeError: it failed; the message says where.
    """
    if block.language == "python":
        try:
            exec(compile(block.text, block.where, "exec"), names)
        except Exception as error:
            raise RuntimeError(f"{block.where}: {type(error).__name__}: {error}") from error
        return
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], env={**os.environ, "PATH": path},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
    print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        raise RuntimeError(f"{block.where}: exit code {done.returncode}\n{done.stderr[-2000:]}")
