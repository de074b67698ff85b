"""What else could explain a vector's AUC: shuffled labels, random directions, single words, length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.activations import Activations
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
    test_acts: Activations, vector: PersonaVector, others: Mapping[str, PersonaVector], layer: int
) -> dict[str, dict[str, float]]:
    """How well other traits' vectors tell these poles apart, and how far they point the same way: `auc`, `cosine`."""
    x = np.asarray(test_acts.values[:, layer], dtype=np.float64)
    return {
        name: {
            "auc": float(auc(x @ other.unit(layer), test_acts.high)),
            "cosine": float(vector.unit(layer) @ other.unit(layer)),
        }
        for name, other in others.items()
    }


def lexical_auc(
    fit_texts: Sequence[str], fit_high: np.ndarray, test_texts: Sequence[str], test_high: np.ndarray
) -> float:
    """Held-out AUC of a bag of words (tf-idf, logistic regression): how much single words give away."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")  # nosec B106  # of words, no secret
    model: Any = make_pipeline(words, LogisticRegression(C=10.0, max_iter=2000))
    try:
        model.fit(list(fit_texts), np.asarray(fit_high, dtype=int))
    except ValueError:  # texts without a single word
        return float("nan")
    return float(auc(model.decision_function(list(test_texts)), np.asarray(test_high, dtype=bool)))


def length_auc(texts: Sequence[str], high: np.ndarray) -> float:
    """AUC of the number of words alone, in the direction given (above .5: high is longer)."""
    return float(auc(np.array([len(t.split()) for t in texts], dtype=float), np.asarray(high, dtype=bool)))


def sentiment_auc(texts: Sequence[str], high: np.ndarray) -> float:
    """AUC of VADER's compound sentiment alone (Hutto & Gilbert 2014); above .5: high sounds more positive."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    scores = np.array([analyser.polarity_scores(text)["compound"] for text in texts], dtype=float)
    return float(auc(scores, np.asarray(high, dtype=bool)))
