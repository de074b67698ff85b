"""The items that `--items`, `--split` and `--limit` name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_persona.domain.items import Items


def read_item_set(trait: str | None, source: str, split: str, limit: int | None) -> Items:
    """Items by `--items` (bank or a file) and `--split`; a file is used whole unless a split is asked for."""
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.items import SPLITS

    if source == "second":
        items = load_items(trait, author="second")
    else:
        items = load_items(trait) if source == "bank" else load_items(trait, path=source)
    if split == "default":
        split = "test" if source == "bank" else "all"
    for name in SPLITS:
        if split == name:
            items = items.split(name)
    if not len(items):
        raise UserError(f"--items {source}: split {split!r} holds no item")
    return items[:limit]
