"""What a direction says in words: the tokens whose logits it raises and lowers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import align_module_device

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject


@dataclass(frozen=True)
class Words:
    """(token text, logit change per unit coefficient), strongest first."""

    promoted: list[tuple[str, float]]
    demoted: list[tuple[str, float]]


@torch.no_grad()
def direction_words(subject: Subject, vector: PersonaVector, layer: int, count: int = 12) -> Words:
    """Tokens that v_layer promotes and demotes through the output layer alone (logit lens, nostalgebraist 2020).

    The direction goes through the final norm's weight and the output layer; the blocks in between are passed over, so
    at early layers this says little of what steering does. Logits are centred over the vocabulary.

    Raises:
        UserError: the model has no output layer of the residual stream's width.
    """
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    output = subject.model.get_output_embeddings()
    if output is None or output.weight.shape[1] != subject.hidden_size:
        raise UserError(f"{subject.name}: its output layer does not read the residual stream directly")
    direction = torch.from_numpy(vector.directions[layer].astype(np.float32))
    direction = direction * _final_norm_weight(subject)
    with align_module_device(output):  # weights that lie on the disk or elsewhere meanwhile
        logits = output.weight.float().cpu() @ direction
    logits = logits - logits.mean()
    best, worst = logits.topk(count), (-logits).topk(count)

    def texts(indices: torch.Tensor, values: torch.Tensor) -> list[tuple[str, float]]:
        return [
            (subject.tokenizer.decode([i]), float(v)) for i, v in zip(indices.tolist(), values.tolist(), strict=True)
        ]

    return Words(texts(best.indices, best.values), texts(worst.indices, -worst.values))


def _final_norm_weight(subject: Subject) -> torch.Tensor:
    """Weight of the decoder's last norm (ones where it has none that can be found)."""
    for name in ("norm", "final_layernorm", "final_layer_norm", "ln_f"):
        norm = getattr(subject.decoder, name, None)
        if isinstance(norm, torch.nn.Module):
            with align_module_device(norm):
                weight = getattr(norm, "weight", None)
                if weight is not None and weight.shape == (subject.hidden_size,):
                    # Gemma's norms multiply by 1 + weight
                    return weight.float().cpu() + (1.0 if type(norm).__name__.startswith("Gemma") else 0.0)
    return torch.ones(subject.hidden_size)
