"""The standard that a trait's items are held to, measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from llm_persona.analysis.controls import length_auc, lexical_auc, sentiment_auc
from llm_persona.domain.items import OPTIONS, SPLITS, Item
from llm_persona.domain.traits import Trait, facet_names

MINIMUM = {"fit": 40, "select": 15, "test": 25}
QUESTIONS, PAIRS = 40, 5
LARGEST_GAP = 6
"""Words between the high and the low responses of an item."""
MOST_SIMILAR = 0.60
"""Cosine (tf-idf) of two items' prompts, below which they count as different."""


@dataclass(frozen=True)
class Check:
    """One line of the standard: what was measured, what is asked, whether it holds."""

    name: str
    measured: str
    standard: str
    ok: bool


def check_trait(trait: Trait) -> list[Check]:
    """All checks of a trait, in reading order. Informative lines are always in order."""
    items = trait.bank
    return [
        _counts(items),
        _facets(trait, items),
        _domains(items),
        _length(items),
        _item_lengths(items),
        _sentiment(trait, items),
        _marks(items),
        _first_words(items),
        _duplicates(items),
        _distinct(items),
        _vocabulary(trait, items),
        _paraphrases(items),
        _elicitation(trait),
        _words(items),
    ]


def _responses(items: Iterable[Item]) -> tuple[list[str], np.ndarray]:
    pairs = [(text, "high" in name) for item in items for name, text in item.responses.items()]
    return [text for text, _ in pairs], np.array([high for _, high in pairs], dtype=bool)


def _counts(items: Sequence[Item]) -> Check:
    found = Counter(item.split for item in items)
    text = ", ".join(f"{found[s]} {s}" for s in SPLITS)
    return Check(
        "items per split", text, "at least 40 fit, 15 select, 25 test", all(found[s] >= MINIMUM[s] for s in SPLITS)
    )


def _facets(trait: Trait, items: Sequence[Item]) -> Check:
    names = facet_names(trait)
    missing = [f"{f} in {s}" for s in SPLITS for f in names if not any(i.facet == f and i.split == s for i in items)]
    unknown = sorted({i.facet for i in items} - set(names))
    faults = missing + [f"unknown facet {u!r}" for u in unknown]
    measured = f"{len(names)} facets" + (f"; missing: {', '.join(faults[:3])}" if faults else "")
    return Check("facet coverage", measured, "every facet in every split", not faults)


def _domains(items: Sequence[Item]) -> Check:
    found = Counter(i.domain for i in items if i.domain)
    share = max(found.values(), default=0) / max(len(items), 1)
    ok = len(found) >= 6 and share <= 0.25
    return Check(
        "domain coverage", f"{len(found)} domains, largest {100 * share:.0f}%", "6 or more, none above 25%", ok
    )


def _length(items: Sequence[Item]) -> Check:
    texts, high = _responses(items)
    words = np.array([len(t.split()) for t in texts], dtype=float)
    a, b = words[high].mean(), words[~high].mean()
    gap, area = abs(a - b) / ((a + b) / 2), length_auc(texts, high)
    measured = f"high {a:.1f}, low {b:.1f} words; AUC of length {area:.2f}"
    return Check(
        "length balance", measured, "means within 5%, AUC .40 to .60", bool(gap <= 0.05 and 0.4 <= area <= 0.6)
    )


def length_gap(item: Item) -> float:
    """Words of a high response less those of a low one, in the mean."""

    def words(text: str) -> int:
        return len(text.split())

    high, low = words(item.response_high1) + words(item.response_high2), words(item.response_low1)
    return (high - low - words(item.response_low2)) / 2


def _item_lengths(items: Sequence[Item]) -> Check:
    gaps = [abs(length_gap(item)) for item in items]
    worst = max(range(len(items)), key=lambda n: gaps[n])
    measured = f"largest gap {gaps[worst]:.1f} words ({items[worst].id})"
    return Check("length within items", measured, f"at most {LARGEST_GAP}", gaps[worst] <= LARGEST_GAP)


def _sentiment(trait: Trait, items: Sequence[Item]) -> Check:
    texts, high = _responses(items)
    area = sentiment_auc(texts, high)
    if trait.sentiment == "uneven":
        return Check("sentiment", f"AUC {area:.2f}, uneven by nature", "reported only", True)
    return Check("sentiment", f"AUC of sentiment {area:.2f}", ".35 to .65", 0.35 <= area <= 0.65)


def _marks(items: Sequence[Item]) -> Check:
    texts, high = _responses(items)
    rates = {
        mark: [
            sum(mark in t for t, h in zip(texts, high, strict=True) if h == pole) / len(texts) * 2
            for pole in (True, False)
        ]
        for mark in ("?", "!", ";")
    }
    worst = max(abs(a - b) for a, b in rates.values())
    measured = ", ".join(f"'{m}' {100 * a:.0f}/{100 * b:.0f}%" for m, (a, b) in rates.items())
    return Check("register (marks, high/low)", measured, "within 10 points", worst <= 0.1)


def _first_words(items: Sequence[Item]) -> Check:
    texts, _ = _responses(items)
    word, count = Counter(t.split()[0].lower() for t in texts).most_common(1)[0]
    share = count / len(texts)
    return Check("first words", f"commonest {word!r} {100 * share:.0f}%", "none above 15%", share <= 0.15)


def similarities(texts: Sequence[str]) -> np.ndarray:
    """Cosines (tf-idf of words) between texts, float64 [n, n], each text's with itself 0."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    similar: np.ndarray = (rows @ rows.T).toarray()
    np.fill_diagonal(similar, 0)
    return similar


def _duplicates(items: Sequence[Item]) -> Check:
    if len(items) < 2:
        return Check("near-duplicates", "one item", "largest cosine below .60", True)
    similar = similarities([i.prompt for i in items])
    a, b = divmod(int(similar.argmax()), len(items))
    measured = f"largest cosine {similar[a, b]:.2f} ({items[a].id}, {items[b].id})"
    return Check("near-duplicates", measured, "largest cosine below .60", bool(similar[a, b] < MOST_SIMILAR))


def _distinct(items: Sequence[Item]) -> Check:
    texts, _ = _responses(items)
    twice = len(texts) - len({t.lower() for t in texts})
    return Check("repeated responses", str(twice), "none", twice == 0)


def forbidden_words(name: str, definition: str, item: Item) -> list[str]:
    """Words of an item's responses that are the trait's name or a content word of its definition (any word of six
    letters or more that is not a function word), inflected forms included by a common stem of all but the last two
    letters."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    def content(text: str) -> set[str]:
        return {w for w in re.findall(r"[a-z]+", text.lower()) if len(w) >= 6 and w not in ENGLISH_STOP_WORDS}

    banned = content(f"{name} {definition}") - {"people", "person", "others", "things"}
    stems = tuple(word[: max(6, len(word) - 2)] for word in banned)
    words = set(re.findall(r"[a-z]+", " ".join(item.responses[n] for n in OPTIONS).lower()))
    return sorted(word for word in words if word.startswith(stems))


def _vocabulary(trait: Trait, items: Sequence[Item]) -> Check:
    """No response uses the trait's name or a content word of its definition."""
    hits = [f"{item.id}: {word}" for item in items for word in forbidden_words(trait.name, trait.definition, item)]
    measured = f"{len(hits)} uses" + (f" ({', '.join(sorted(hits)[:3])})" if hits else "")
    return Check("the trait's name and definition", measured, "not in any response", not hits)


def _paraphrases(items: Sequence[Item]) -> Check:
    found = sum(bool(i.paraphrased_situation and i.paraphrased_query) for i in items)
    return Check("paraphrases", f"{found} of {len(items)}", "reported only", True)


def _elicitation(trait: Trait) -> Check:
    questions = Counter(q.split for q in trait.questions)
    measured = f"{len(trait.instruction_pairs)} pairs, {len(trait.questions)} questions ({dict(questions)})"
    ok = (
        len(trait.instruction_pairs) >= PAIRS
        and len(trait.questions) >= QUESTIONS
        and all(questions[s] for s in SPLITS)
    )
    return Check("instructions and questions", measured, "5 pairs, 40 questions, each split", ok)


def _words(items: Sequence[Item]) -> Check:
    fit, test = ([i for i in items if i.split == s] for s in ("fit", "test"))
    if not fit or not test:
        return Check("bag of words", "no fit or test items", "reported only", True)
    (a, ya), (b, yb) = _responses(fit), _responses(test)
    return Check("bag of words", f"held-out AUC {lexical_auc(a, ya, b, yb):.2f}", "reported only", True)
