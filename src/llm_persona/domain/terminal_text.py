"""Text of strangers (models, files, servers) made safe to show on a terminal: the one place that does it."""

from __future__ import annotations

import re

REPLACED = "\N{REPLACEMENT CHARACTER}"
UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed: escape sequences begin with one
    r"\u200b\u2028-\u202e\u2060-\u206f"  # no width, line breaks of another kind, text that runs backwards
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"  # half pairs, marks that nobody sees
)
"""What can move the cursor, change colours, titles or the clipboard, or hide and reorder text. Joiners stay: scripts
and emoji need them."""


def plain(text: str) -> str:
    """The text with every unsafe character made visible; lines and tabs are kept."""
    return UNSAFE.sub(REPLACED, text)


def one_line(text: str, limit: int = 600) -> str:
    """The text folded into one line without unsafe characters, cut at `limit` characters."""
    folded = " ".join(UNSAFE.sub(" ", text).split())
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."
