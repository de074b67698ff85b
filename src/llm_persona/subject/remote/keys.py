"""API keys: looked up when a call is made, never kept in a result, a cache, a log or an error text."""

from __future__ import annotations

import os
import re
from pathlib import Path

from llm_persona.domain.errors import UserError

SHORTEST = 8
"""Values below this length are not searched for: hiding them would hide words."""


def find_key(name: str) -> str | None:
    """The value of a key in the environment, else in the `.env` file of the working folder; None if it is nowhere."""
    value = os.environ.get(name)
    if value is None and Path(".env").is_file():
        from dotenv import dotenv_values

        value = dotenv_values(".env").get(name)
    return value.strip() if value and value.strip() else None


def need_key(name: str, why: str) -> str:
    """The key, or one helpful line.

    Raises:
        UserError: it is neither in the environment nor in `.env`.
    """
    value = find_key(name)
    if value is None:
        raise UserError(f"{why} needs {name}; set it in the environment or in .env (.env.example explains each)")
    return value


def hidden(text: str, *secrets: str | None) -> str:
    """The text with every given secret replaced, for what an API says in its errors."""
    for secret in secrets:
        if secret and len(secret) >= SHORTEST:
            text = text.replace(secret, "[key]")
    return text


def without_credentials(text: str) -> str:
    """The text with the user and password of every address in it replaced."""
    return re.sub(r"(?<=//)[^/@\s]+@", "[key]@", text)
