"""Items that change from round to round, so that nothing that is kept answers for what is timed."""

from __future__ import annotations

from dataclasses import dataclass

from llm_persona.domain.items import Item, Items


@dataclass(frozen=True)
class Rotation:
    """A different stretch of the bank each round."""

    bank: Items
    count: int

    def __call__(self, number: int) -> list[Item]:
        """The items of a round."""
        return [self.bank[(number * self.count + k) % len(self.bank)] for k in range(self.count)]
