"""Every reader of input that others wrote, as one table: what it takes, and all that is done with it before a model is.

A reader either gives plain data or raises `UserError`; `reader.outcome` checks both.
"""

from __future__ import annotations

from pathlib import Path

from api_readers import api_readers
from file_readers import file_readers
from item_readers import item_readers
from reader import Files, Reader
from result_readers import result_readers
from server_readers import server_readers


def make_readers(folder: Path) -> list[Reader]:
    """The table; files are written into `folder`."""
    written = Files(folder)
    return [*item_readers(written), *file_readers(written), *result_readers(written), *api_readers(written),
            *server_readers()]  # fmt: skip
