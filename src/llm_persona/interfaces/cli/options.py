"""Several options as one decorator, so that the same thing is said the same way everywhere; and the seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Any], Any]


def chain(*decorators: Decorator) -> Decorator:
    """Apply decorators in reading order."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 32) - 1))
