"""What else could explain a vector's AUC: shuffled labels, random directions, other traits, words, length, mood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.auc_intervals import auc_with_interval
from llm_persona.analysis.stats import auc, sign_flips
from llm_persona.analysis.vectors import PersonaVector


def shuffled_auc(fit_acts: Activations, test_acts: Activations, layer: int, count: int = 200, seed: int = 0) -> float:
    """Mean held-out AUC of vectors fitted after swapping the poles of random questions: about .5 if all is well."""
    x, test = (np.asarray(a.values[:, layer], dtype=np.float64) for a in (fit_acts, test_acts))
    groups = fit_acts.group_index
    signs = sign_flips(int(groups.max()) + 1, count, seed)[:, groups]
    pole = np.where(fit_acts.high, 1.0, -1.0)
    labels = signs * pole
    n_high = (labels > 0).sum(axis=1, keepdims=True)
    weights = np.where(labels > 0, 1 / np.maximum(n_high, 1), -1 / np.maximum(len(x) - n_high, 1))
    return float(auc(test @ (weights @ x).T, test_acts.high).mean())


def random_auc(test_acts: Activations, layer: int, count: int = 1000, seed: int = 0) -> list[float]:
    """2.5% and 97.5% points of the AUC of random directions on the test rows."""
    drawn = np.random.default_rng(seed).standard_normal((test_acts.values.shape[2], count))
    found = auc(np.asarray(test_acts.values[:, layer], dtype=np.float64) @ drawn, test_acts.high)
    return [float(np.percentile(found, q)) for q in (2.5, 97.5)]


def other_auc(
    test_acts: Activations, vector: PersonaVector, others: Mapping[str, PersonaVector], layer: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How well other traits' vectors tell these poles apart, and how far they point the same way.

    Returns:
        By name: `auc` (above .5: its high pole reads these high rows as high), `auc_ci`, `cosine`.
    """
    x = np.asarray(test_acts.values[:, layer], dtype=np.float64)
    found = {}
    for name, other in others.items():
        value, ci = auc_with_interval(x @ other.unit(layer), test_acts.high, test_acts.groups, seed)
        found[name] = {"auc": value, "auc_ci": ci, "cosine": float(vector.unit(layer) @ other.unit(layer))}
    return found


def lexical_scores(fit_texts: Sequence[str], fit_high: np.ndarray, test_texts: Sequence[str]) -> np.ndarray:
    """What a bag of words (tf-idf, logistic regression) makes of each test text, float64 [n]; NaN where no text of the
    fit holds a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")  # nosec B106  # of words, no secret
    model: Any = make_pipeline(words, LogisticRegression(C=10.0, max_iter=2000))
    try:
        model.fit(list(fit_texts), np.asarray(fit_high, dtype=int))
    except ValueError:  # texts without a single word
        return np.full(len(test_texts), np.nan)
    return np.asarray(model.decision_function(list(test_texts)), dtype=np.float64)


def lexical_auc(
    fit_texts: Sequence[str], fit_high: np.ndarray, test_texts: Sequence[str], test_high: np.ndarray
) -> float:
    """Held-out AUC of a bag of words: how much single words give away."""
    scores = lexical_scores(fit_texts, fit_high, test_texts)
    return float(auc(scores, np.asarray(test_high, dtype=bool))) if np.isfinite(scores).all() else float("nan")


def length_scores(texts: Sequence[str]) -> np.ndarray:
    """Number of words of each text; an AUC above .5: high is longer."""
    return np.array([len(text.split()) for text in texts], dtype=float)


def sentiment_scores(texts: Sequence[str]) -> np.ndarray:
    """VADER's compound sentiment of each text (Hutto & Gilbert 2014); an AUC above .5: high sounds more positive."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    return np.array([analyser.polarity_scores(text)["compound"] for text in texts], dtype=float)


def length_auc(texts: Sequence[str], high: np.ndarray) -> float:
    """AUC of the number of words alone, in the direction given (above .5: high is longer)."""
    return float(auc(length_scores(texts), np.asarray(high, dtype=bool)))


def sentiment_auc(texts: Sequence[str], high: np.ndarray) -> float:
    """AUC of sentiment alone (see `sentiment_scores`)."""
    return float(auc(sentiment_scores(texts), np.asarray(high, dtype=bool)))


def confounds(
    fit_texts: Sequence[str], fit_acts: Activations, test_texts: Sequence[str], test_acts: Activations, seed: int = 0
) -> dict[str, Any]:
    """What the texts alone give away: `lexical_auc`, `length_auc`, `sentiment_auc` on the test rows, each with `_ci`
    (bootstrap over questions; of the bag of words conditional on its fit); None where nothing could be scored."""
    found: dict[str, Any] = {}
    for name, scores in (
        ("lexical", lexical_scores(fit_texts, fit_acts.high, test_texts)),
        ("length", length_scores(test_texts)),
        ("sentiment", sentiment_scores(test_texts)),
    ):
        value, ci = auc_with_interval(scores, test_acts.high, test_acts.groups, seed)
        found |= {f"{name}_auc": value, f"{name}_auc_ci": ci}
    return found
