"""Names that come out of files become paths here, and cannot leave their folder."""

from __future__ import annotations

import re
from pathlib import Path

from llm_persona.domain.errors import UserError, one_line

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")


def inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`, if the name is that of a file right there.

    Raises:
        UserError: names `where` it stood; it is empty, hidden, too long, has a separator or another odd character.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.endswith((".", " ")):
        raise UserError(
            f"{where}: {one_line(repr(name), 80)} is no plain file name; the file was altered or comes from elsewhere"
        )
    return folder / name
