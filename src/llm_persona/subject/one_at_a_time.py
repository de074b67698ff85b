"""The plain way: one text a forward, everything asked for. What the fast ways are checked and timed against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llm_persona.subject.chat import render_prompt
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row, render_rows


@torch.no_grad()
def response_means(subject: Subject, rows: Sequence[Row]) -> np.ndarray:
    """Mean of every layer's hidden states over the response's tokens, float32 [rows, layers, hidden].

    Hidden states come from `output_hidden_states`, whose last entry is after the final norm: the last layer is not
    what `record` gives, so it is left out: [rows, layers - 1, hidden].
    """
    found = []
    for one in render_rows(subject, rows):
        output = subject.model(_ids(subject, one.ids[: one.end]), output_hidden_states=True, use_cache=False)
        layers = torch.stack(output.hidden_states[1:-1])[:, 0, one.start : one.end]
        found.append(layers.float().mean(dim=1).cpu().numpy())
    return np.stack(found)


@torch.no_grad()
def likelihoods(subject: Subject, rows: Sequence[Row]) -> list[np.ndarray]:
    """Natural-log probability of each of the response's own tokens, one array a row."""
    found = []
    for one in render_rows(subject, rows):
        logits = subject.model(_ids(subject, one.ids[: one.end]), use_cache=False).logits[0]
        values = logits[one.start - 1 : one.end - 1].float()
        wanted = torch.tensor(one.ids[one.start : one.end], device=values.device)
        # (torch's float32 log_softmax is off by up to 1e-5 over a vocabulary on a CPU: it adds up without pairing)
        taken = values.gather(1, wanted[:, None])[:, 0] - values.logsumexp(dim=1)
        found.append(taken.cpu().double().numpy())
    return found


@torch.no_grad()
def letters(subject: Subject, prompts: Sequence[str]) -> np.ndarray:
    """Probabilities of every token right after each prompt, float32 [prompts, vocabulary]."""
    rows = []
    for prompt in prompts:
        logits = subject.model(_ids(subject, render_prompt(subject, prompt)), use_cache=False).logits[0, -1].float()
        rows.append(torch.softmax(logits, dim=-1).cpu().numpy())
    return np.stack(rows)


def _ids(subject: Subject, ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(ids)], device=subject.device)
