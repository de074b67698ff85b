"""TRAIT scoring (Lee et al. 2024) as arithmetic on recorded numbers and texts; no model is needed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.stats import mean_estimate, proportion_estimate
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import OPTIONS, Item
from llm_persona.domain.measurement import Measurement

FORWARD = OPTIONS
REVERSED = ("response_low1", "response_high1", "response_low2", "response_high2")
"""The second order swaps within neighbours."""
FORMS = ("mean", "sum", "unconditional")
"""How token log-probabilities make one number a response; see `likelihood_row`."""


def classify(shares: dict[str, float]) -> dict[str, Any]:
    """Preference and class from the four options' probabilities; a tie between the poles is unscored."""
    best = max(shares.values())
    classes = {"high" in name for name, share in shares.items() if share == best}
    preference = sum(share for name, share in shares.items() if "high" in name)
    if len(classes) > 1:
        return {"preference": preference, "unscored": "tie between a high and a low option"}
    return {"preference": preference, "high": classes.pop()}


def likelihood_row(
    name: str,
    responses: Sequence[np.ndarray],
    unconditional: Sequence[np.ndarray] | None = None,
    form: str = "mean",
) -> dict[str, Any]:
    """One item from its four responses' token log-probabilities, in forward order.

    `mean` is length-normalised, `sum` the raw log-probability, `unconditional` the log-probability less that of
    the same response under a prompt that names no situation (domain-conditional mutual information, Holtzman et
    al. 2021), both summed. All forms that can be had are kept in the row; `form` decides the class.

    Raises:
        UserError: an unknown form, or `unconditional` without its log-probabilities.
    """
    if form not in FORMS:
        raise UserError(f"likelihood form {form!r}: choose one of {', '.join(FORMS)}")
    forms = {"mean": [float(r.mean()) for r in responses], "sum": [float(r.sum()) for r in responses]}
    if unconditional is not None:
        pairs = zip(responses, unconditional, strict=True)
        forms["unconditional"] = [float(given.sum() - alone.sum()) for given, alone in pairs]
    if form not in forms:
        raise UserError("likelihood form 'unconditional' needs the responses' unconditional log-probabilities")
    row: dict[str, Any] = {"id": name, "logprobs": dict(zip(OPTIONS, forms["mean"], strict=True))}
    row["tokens"] = dict(zip(OPTIONS, map(len, responses), strict=True))
    if "unconditional" in forms:
        row["unconditional"] = dict(zip(OPTIONS, forms["unconditional"], strict=True))
    values = np.array(forms[form])
    if not np.isfinite(values).all():
        return {**row, "unscored": "a log-probability is not finite"}
    shares = np.exp(values - values.max())
    return {**row, **classify(dict(zip(OPTIONS, (shares / shares.sum()).tolist(), strict=True)))}


def letter_row(
    name: str, forward: dict[str, float], backward: dict[str, float], upstream: bool = False
) -> dict[str, Any]:
    """One item from its option probabilities in both orders.

    Per order the four probabilities are normalised, each option is averaged over the orders, and the
    largest decides. The published scoring counts zero mass and ties as high; ours leaves them unscored.
    """
    masses = [sum(order.values()) for order in (forward, backward)]
    row: dict[str, Any] = {"id": name, "forward": forward, "reversed": backward, "option_mass": sum(masses) / 2}
    if not np.isfinite(masses).all():
        return {**row, "option_mass": None, "unscored": "the engine gave no log-probabilities"}
    if min(masses) <= 0:
        return {**row, "high": True} if upstream else {**row, "unscored": "no probability on any option"}
    shares = {n: (forward[n] / masses[0] + backward[n] / masses[1]) / 2 for n in OPTIONS}
    classes = [classify({n: order[n] for n in OPTIONS}).get("high") for order in (forward, backward)]
    row["consistent"] = classes[0] is not None and classes[0] == classes[1]
    if upstream:
        best = max(shares.values())
        return {**row, "high": any(shares[n] == best for n in OPTIONS if "high" in n)}
    return {**row, **classify(shares)}


def answer_row(name: str, texts: Sequence[str], item: Item, labels: Sequence[str]) -> dict[str, Any]:
    """One item from the texts written in both orders, each matched to an option.

    An order whose text matches no option, or refuses, says nothing; with both orders matched to opposite
    poles the item is a tie. Such items are unscored, with the reason.
    """
    found: list[str | None] = []
    reasons = []
    for text, order in zip(texts, (FORWARD, REVERSED), strict=True):
        place, reason = match_option(text, labels, [item.responses[n] for n in order])
        found.append(None if place is None else order[place])
        reasons.append(reason)
    row: dict[str, Any] = {"id": name, "answers": list(texts), "matched": found, "matched_by": reasons}
    named = [option for option in found if option is not None]
    if not named:
        return {**row, "unscored": reasons[0]}
    if len(named) == 2:
        row["consistent"] = ("high" in named[0]) == ("high" in named[1])
    return {**row, **classify({n: named.count(n) / len(named) for n in OPTIONS})}


REFUSAL = re.compile(
    r"\b(i\s*(?:'m| am)\s+(?:sorry|unable|not able)|i (?:cannot|can't|won't|will not)\b|as an? (?:ai|language model))",
    re.IGNORECASE,
)
SIMILAR = 0.5
"""Share of an option's content words that a free text must hold to count as that option; and twice the runner-up's."""


def match_option(text: str, labels: Sequence[str], options: Sequence[str]) -> tuple[int | None, str]:
    """Which option a written answer names: (place or None, how it was matched or why not).

    In this order: a label that stands where an answer would (`B`, `(B)`, `B.`, `Answer: B`, `option B`); exactly
    one option quoted word for word; a refusal; the option whose content words it repeats by clear majority.
    """
    stripped = text.strip().strip("*_`\"' \n")
    if not stripped:
        return None, "empty answer"
    mark = "|".join(re.escape(label) for label in labels)
    patterns = (
        rf"^\(?({mark})(?:[\).:,;\s]|$)",
        rf"\b(?i:answer|option|choice|choose|pick|reply)\b[^.\n]{{0,24}}?\(?\b({mark})\b\)?(?:[\).:,;\s]|$)",
        rf"\(({mark})\)",
    )
    for pattern in patterns:
        named = set(re.findall(pattern, stripped))
        if len(named) == 1:
            label = named.pop()
            if pattern is patterns[0] and _begins_a_sentence(stripped, label):
                continue
            return list(labels).index(label), "label"
    folded = " ".join(stripped.lower().split())
    quoted = [n for n, option in enumerate(options) if " ".join(option.lower().split()).rstrip(".") in folded]
    if len(quoted) == 1:
        return quoted[0], "quoted"
    if REFUSAL.search(stripped):
        return None, "refusal"
    shares = sorted(((_overlap(stripped, option), n) for n, option in enumerate(options)), reverse=True)
    if shares[0][0] >= SIMILAR and shares[0][0] >= 2 * shares[1][0]:
        return shares[0][1], "wording"
    return None, "matches no option"


def _begins_a_sentence(text: str, label: str) -> bool:
    """`A good idea ...` begins with a word, not with a label."""
    return label.isalpha() and re.match(rf"^{re.escape(label)}\s+[a-z]", text) is not None


def _overlap(text: str, option: str) -> float:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    def words(value: str) -> Counter:
        return Counter(w for w in re.findall(r"\w+", value.lower()) if w not in ENGLISH_STOP_WORDS)

    wanted = words(option)
    return sum((wanted & words(text)).values()) / max(1, sum(wanted.values()))


def rescore(items: Sequence[Item], api: bool = False) -> Measurement:
    """Upstream scores from recorded option probabilities (`likelihood`, `likelihood_rev` by label).

    `api`: the records are of a model behind an API. The published analysis takes the exponential of those once
    more, though they are probabilities already; labels that are missing count zero.

    Raises:
        UserError: an item without both records.
    """
    rows = []
    for item in items:
        if item.likelihood is None or item.likelihood_rev is None:
            raise UserError(f"item {item.id}: no recorded likelihood and likelihood_rev; --rescore needs both")
        orders = [
            {
                name: 0.0 if label not in record else math.exp(record[label]) if api else record[label]
                for label, name in zip(_recorded_labels(record), order, strict=True)
            }
            for record, order in ((item.likelihood, FORWARD), (item.likelihood_rev, REVERSED))
        ]
        rows.append(letter_row(item.id, orders[0], orders[1], upstream=True))
    return Measurement("trait-upstream", "recorded", rows, summarise(rows))


def _recorded_labels(record: dict[str, float]) -> str:
    """The labels of the template that a record was made with."""
    return "1234" if not set("ABCD") & record.keys() and set("1234") & record.keys() else "ABCD"


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score, preference and reliability of a measurement's rows; keys a mode does not have are None.

    The score's interval is Wilson's (an interval by resampling items has no width at 0 and 100%), the
    preference's a bootstrap over items. `headroom` is False below 10 and above 90%.
    """
    scored = [row for row in rows if "unscored" not in row]
    reasons = Counter(row["unscored"] for row in rows if "unscored" in row)
    share = proportion_estimate(sum(row["high"] for row in scored), len(scored))
    preferences = [row["preference"] for row in scored if row.get("preference") is not None]
    preference = mean_estimate(np.array(preferences)) if preferences else None
    masses = [row["option_mass"] for row in rows if row.get("option_mass") is not None]
    agreeing = [row["consistent"] for row in rows if "consistent" in row]
    return {
        "n": len(rows),
        "n_unscored": len(rows) - len(scored),
        "unscored": dict(reasons),
        "score": share.value if scored else None,
        "score_ci": share.ci,
        "preference": preference.value if preference else None,
        "preference_ci": preference.ci if preference else [None, None],
        "option_mass": math.fsum(masses) / len(masses) if masses else None,
        "order_consistency": sum(agreeing) / len(agreeing) if agreeing else None,
        "headroom": None if not scored else bool(10 <= share.value <= 90),
    }
