"""What a subject on vLLM does when it is asked, recorded, scored, tuned or steered: all of it by requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.adapters import adapter_digest
from llm_persona.domain.condition import Steer
from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import read_json
from llm_persona.subject.adapt import adapted, check_adapter
from llm_persona.subject.chat import Rendered, end_tokens, render_prompt
from llm_persona.subject.engines.vllm_hooks import Move, Pool
from llm_persona.subject.engines.vllm_subject import MAX_RANK, PLAIN, Request, Steering, VllmSubject
from llm_persona.subject.generate import NO_PROBABILITIES, Answer, check_request, generate, plan_answers, read_answer
from llm_persona.subject.packing import Row, render_rows
from llm_persona.subject.record import Position, read_pooled
from llm_persona.subject.reuse import KeptBlocks, reusing_below
from llm_persona.subject.score import next_token_probabilities, response_logprobs
from llm_persona.subject.steer import (
    SteeringCount,
    check_vector,
    delta_of,
    refuse_untouched,
    rows_state,
    steered_by,
    steering_rows,
)
from llm_persona.subject.token_reading import check_readable, read_tokens

READ = {"max_tokens": 1, "temperature": 0.0}
"""Of a request that only reads: vLLM generates at least one token."""


@generate.register(VllmSubject)
def _generate(
    subject: VllmSubject,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    system: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """`use_cache` has no meaning here. At a temperature every prompt is drawn with a seed of its own, so an answer does
    not depend on what else is in the batch."""
    check_request(prompts, max_new_tokens, temperature)
    rendered = [render_prompt(subject, prompt, system) for prompt in prompts]
    order, answers = plan_answers(subject, prompts, rendered, max_new_tokens)
    if progress is not None and answers:
        progress(len(answers))
    ends = end_tokens(subject)
    settings: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    settings["stop_token_ids"] = sorted(ends)
    settings["logprobs"] = 0  # the token's own: how probabilities that are none show

    def request(number: int) -> Request:
        ids = rendered[number]
        drawn = {"seed": (seed + number) % (1 << 32)} if temperature else {}
        return Request(ids, len(ids), {**settings, **drawn}, number)

    for first in range(0, len(order), PLAIN):
        chosen = order[first : first + PLAIN]
        for number, output in zip(chosen, subject.ask([request(n) for n in chosen], progress), strict=True):
            written = output.outputs[0]
            _refuse_nan(written)
            answers[number] = read_answer(subject, prompts[number], list(written.token_ids), ends)
    return [answers[number] for number in range(len(prompts))]


def _refuse_nan(written: Any) -> None:
    """The likeliest of probabilities that are none would be some token or other."""
    for token, found in zip(written.token_ids, written.logprobs or [], strict=False):
        if np.isnan(found[token].logprob):
            raise UserError(NO_PROBABILITIES)


@response_logprobs.register(VllmSubject)
def _response_logprobs(
    subject: VllmSubject, rows: Sequence[Row], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    rendered = render_rows(subject, rows)
    settings = {**READ, "prompt_logprobs": 0}
    outputs = subject.ask([Request(r.ids, r.start, settings) for r in rendered], progress)
    return [_own_logprobs(r, output.prompt_logprobs) for r, output in zip(rendered, outputs, strict=True)]


def _own_logprobs(row: Rendered, by_place: Sequence[Any]) -> np.ndarray:
    """Log-probability of each of the response's tokens: entry i of vLLM's list is of token i, given those before."""
    return np.array([by_place[i][row.ids[i]].logprob for i in range(row.start, row.end)], dtype=np.float64)


@next_token_probabilities.register(VllmSubject)
def _next_token_probabilities(subject: VllmSubject, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
    found = np.full((len(prompts), len(tokens)), np.nan)
    fit = [number for number, p in enumerate(prompts) if len(p) <= subject.max_length]
    settings = {**READ, "logprob_token_ids": list(dict.fromkeys(tokens))}
    outputs = subject.ask([Request(list(prompts[n]), len(prompts[n]), settings) for n in fit])
    for number, output in zip(fit, outputs, strict=True):
        first = output.outputs[0].logprobs[0]
        found[number] = np.exp([first[token].logprob for token in tokens])
    return found


@read_pooled.register(VllmSubject)
def _read_pooled(
    subject: VllmSubject,
    rows: Sequence[Row],
    positions: Sequence[Position],
    layers: Sequence[int],
    keep: Callable[[Sequence[int], np.ndarray], None],
) -> None:
    """One request a row and position; the hooks read every layer, as vLLM computes them all anyway."""
    rendered = render_rows(subject, rows)
    for first in range(0, len(rendered), PLAIN):
        part = rendered[first : first + PLAIN]
        read = np.stack([_pooled(subject, part, position) for position in positions])
        keep(range(first, first + len(part)), read[:, :, list(layers)])


def _pooled(subject: VllmSubject, rows: Sequence[Rendered], position: Position) -> np.ndarray:
    requests = [Request(r.ids, r.start, READ, pool=_pool(r, position)) for r in rows]
    read = [subject.pooled(request, output) for request, output in zip(requests, subject.ask(requests), strict=True)]
    return torch.stack(read).numpy()


def _pool(row: Rendered, position: Position) -> Pool:
    if position == "response_mean":
        return Pool(row.start, row.end)
    return Pool(row.start - 1, row.start) if position == "prompt_last" else Pool(0, row.start)


@read_tokens.register(VllmSubject)
def _read_tokens(
    subject: VllmSubject,
    ids: Sequence[int],
    start: int,
    vectors: Sequence[PersonaVector],
    layers: Sequence[int] | None = None,
) -> np.ndarray:
    asked = list(range(subject.n_layers)) if layers is None else list(layers)
    check_readable(subject, ids, start, vectors)
    if not vectors:
        return np.zeros((len(ids) - start + 1, 0, len(asked)), dtype=np.float32)
    settings = {**READ, "extra_args": {"output_residual_stream": True}}
    [output] = subject.ask([Request(list(ids), start, settings)])
    stream = output.activations["residual_stream"].float().numpy().astype(np.float64)  # [layers, tokens, hidden]
    if stream.shape[:2] != (subject.n_layers, len(ids)):
        raise RuntimeError(f"vLLM: {stream.shape[:2]} layers and tokens were captured of {subject.n_layers, len(ids)}")
    units = np.stack([[v.unit(layer) for layer in range(subject.n_layers)] for v in vectors])
    return np.einsum("lth,vlh->tvl", stream[:, start - 1 :], units).astype(np.float32)[:, :, asked]


@reusing_below.register(VllmSubject)
@contextmanager
def _reusing_below(subject: VllmSubject, layer: int, kept: KeptBlocks | None = None) -> Iterator[None]:
    """vLLM keeps no block's output between requests, so nothing is shared here."""
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    yield


@steered_by.register(VllmSubject)
@contextmanager
def _steered_by(subject: VllmSubject, steer: Steer) -> Iterator[SteeringCount]:
    if steer.operator == "add":
        vector = delta_of(subject, steer.vector, steer.layer, steer.coefficient, steer.dose)
    else:
        check_vector(subject, steer.vector, steer.layer)
        vector = torch.from_numpy(steer.vector.unit(steer.layer).astype(np.float32))
    if steer.positions not in ("all", "prompt", "response"):
        raise UserError(f"--positions {steer.positions}: choose all, prompt or response")

    def move(_row: int, begins: int) -> Move:
        return Move(vector, steer.operator, steer.positions, begins, steer.floor, steer.ceiling)

    with _steering(subject, Steering(steer.layer, move, steer.positions != "all"), steer.state) as count:
        yield count


@steering_rows.register(VllmSubject)
@contextmanager
def _steering_rows(
    subject: VllmSubject, vectors: Sequence[PersonaVector], layer: int, doses: Sequence[float]
) -> Iterator[SteeringCount]:
    deltas = [delta_of(subject, v, layer, None, dose) for v, dose in zip(vectors, doses, strict=True)]
    each = Steering(layer, lambda row, _begins: Move(deltas[row]), True)
    with _steering(subject, each, rows_state(vectors, layer, doses)) as count:
        yield count


@contextmanager
def _steering(subject: VllmSubject, steering: Steering, state: Any) -> Iterator[SteeringCount]:
    owner = threading.get_ident()
    if subject.steerings and subject.steering_thread != owner:
        raise UserError("this subject is being steered by another thread; load a second one, or wait")
    subject.steerings.append(steering)
    subject.steering_layers.append(steering.layer)
    subject.steered.append(state)
    subject.steering_thread = owner
    try:
        yield steering.count
    finally:
        subject.steerings.remove(steering)
        subject.steering_layers.remove(steering.layer)
        subject.steered.remove(state)
    refuse_untouched(steering.count)


@adapted.register(VllmSubject)
@contextmanager
def _adapted(subject: VllmSubject, folder: str | Path) -> Iterator[VllmSubject]:
    if subject.adapter is not None:
        raise UserError(f"adapter {str(folder)!r}: the subject already carries {subject.adapter!r}; leave that first")
    subject.adapter, subject.lora = lora_request(subject, folder)
    try:
        yield subject
    finally:
        subject.adapter = subject.lora = None


def lora_request(subject: VllmSubject, folder: str | Path) -> tuple[str, Any]:
    """The adapter's path, and what goes with every request that is made under it.

    Raises:
        UserError: no adapter there, or one that vLLM does not run.
    """
    path = check_adapter(folder)
    config = read_json(path / "adapter_config.json")
    rank = max([int(config.get("r") or 0), *(int(r) for r in (config.get("rank_pattern") or {}).values())])
    if rank > MAX_RANK:
        raise UserError(f"adapter {str(folder)!r}: rank {rank} is above vLLM's {MAX_RANK} here; leave --engine out")
    if config.get("use_dora"):
        raise UserError(f"adapter {str(folder)!r}: vLLM runs no DoRA adapters; leave --engine out")
    from vllm.lora.request import LoRARequest

    # vLLM goes by name and number: each content has its own
    content = adapter_digest(path)
    number = subject.adapters.setdefault(content, len(subject.adapters) + 1)
    request = LoRARequest(lora_name=content[:16], lora_int_id=number, lora_path=str(path.absolute()))
    try:
        subject.llm.llm_engine.add_lora(request)
    except Exception as error:  # the worker's error comes through as whatever the engine wraps it in
        raise UserError(
            f"adapter {str(folder)!r}: does not fit {subject.name!r} ({one_line(str(error), 200)})"
        ) from error
    return str(path), request
