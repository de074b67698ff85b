"""What is wrong with single items, in words that say how to mend it: for drafts that are sent back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from llm_persona.analysis.trait_check import LARGEST_GAP, MOST_SIMILAR, forbidden_words, length_gap, similarities
from llm_persona.domain.items import Item


def item_faults(name: str, definition: str, items: Mapping[int, Item]) -> dict[int, list[str]]:
    """Place to the faults of its item, for places that have some; of two items that are alike the later is at fault.

    Args:
        name, definition: the trait's, whose words no response may use.
        items: place to item, in order.
    """
    faults: dict[int, list[str]] = {}
    texts = Counter(text.lower() for item in items.values() for text in item.responses.values())
    for number, item in items.items():
        found = faults.setdefault(number, [])
        gap = length_gap(item)
        if abs(gap) > LARGEST_GAP:
            found.append(f"high responses have {gap:+.1f} words against low ones; at most {LARGEST_GAP} either way")
        words = forbidden_words(name, definition, item)
        if words:
            found.append(f"the responses use forbidden words: {', '.join(words)}")
        if any(texts[text.lower()] > 1 for text in item.responses.values()):
            found.append("a response stands there twice, or in another item too")
    numbers = list(items)
    similar = similarities([item.prompt for item in items.values()]) if len(items) > 1 else None
    for b in range(1, len(numbers)):
        assert similar is not None
        a = int(similar[b, :b].argmax())
        if similar[b, a] >= MOST_SIMILAR:
            said = f"its situation is almost that of place {numbers[a]} (cosine {similar[b, a]:.2f}); write another one"
            faults[numbers[b]].append(said)
    return {number: said for number, said in faults.items() if said}


def culprits(check: str, items: Sequence[Item], most: int) -> list[int]:
    """Numbers (from 1) of at most `most` items that a balance fails by; none where single items cannot mend it.

    Args:
        check: name of a check of `check_trait`.
    """
    if check == "length balance":
        total = sum(length_gap(item) for item in items)
        weight = [length_gap(item) * (1 if total > 0 else -1) for item in items]
    elif check == "register (marks, high/low)":
        weight = [float(max(abs(_marks(item, mark)) for mark in "?!;")) for item in items]
    elif check == "first words":
        word = Counter(_first(text) for item in items for text in item.responses.values()).most_common(1)[0][0]
        weight = [float(sum(_first(text) == word for text in item.responses.values())) for item in items]
    elif check == "sentiment":
        weight = _feelings(items)
    else:
        return []
    order = sorted((n for n in range(len(items)) if weight[n] > 0), key=lambda n: -weight[n])
    return sorted(n + 1 for n in order[:most])


def _marks(item: Item, mark: str) -> int:
    return sum((mark in text) * (1 if "high" in name else -1) for name, text in item.responses.items())


def _first(text: str) -> str:
    return text.split()[0].lower()


def _feelings(items: Sequence[Item]) -> list[float]:
    """How far an item leans to the end that sounds more pleasant over all items."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    score = SentimentIntensityAnalyzer().polarity_scores
    gaps = [
        sum(score(text)["compound"] * (1 if "high" in name else -1) for name, text in item.responses.items())
        for item in items
    ]
    direction = 1 if sum(gaps) > 0 else -1
    return [gap * direction for gap in gaps]
