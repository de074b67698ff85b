"""A stand-in for vLLM and its plugin, over a tiny transformers model: requests in chunks, hooks by request.

It does to hooks what vLLM does: long prompts come in chunks, every generated token is a step of its own, the last one
is never read, `extra_args` are emptied by the call, a hook's error is swallowed, and a request may be begun again.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CHUNK = 5


class SamplingParams(SimpleNamespace):
    """Keeps what it is given."""


class Hook(SimpleNamespace):
    """fn, layer_indices."""


class LLM:
    """Runs a subject's model one request at a time."""

    def __init__(self, subject: Any, preempt: bool = False) -> None:
        self.subject = subject
        self.preempt = preempt
        self.calls: list[int] = []
        config = SimpleNamespace(
            get_total_num_hidden_layers=lambda: subject.n_layers,
            get_hidden_size=lambda: subject.hidden_size,
            max_model_len=subject.max_length,
        )
        self.llm_engine = SimpleNamespace(model_config=config, add_lora=lambda request: True)
        self.loras: list[Any] = []

    def generate(self, prompts: Any, params: Any, lora_request: Any = None, use_tqdm: bool = True) -> list[Any]:
        self.calls.append(len(prompts))
        self.loras.append(lora_request)
        each = params if isinstance(params, list) else [params] * len(prompts)
        extras = {id(p): dict(p.extra_args or {}) for p in each}
        for one in each:
            (one.extra_args or {}).clear()
        again = self.preempt and len(prompts) > 1
        pairs = zip(prompts, each, strict=True)
        return [self._one(p["prompt_token_ids"], s, extras[id(s)], again and n == 0) for n, (p, s) in enumerate(pairs)]

    @torch.no_grad()
    def _one(self, ids: list[int], params: Any, extra: dict[str, Any], again: bool) -> Any:
        hooks = extra.get("apply_hooks", [])
        contexts = [SimpleNamespace(layer_idx=0, saved={}) for _ in hooks]
        stream: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(self.subject.n_layers)}

        def at(layer: int) -> Any:
            def run(_module: Any, _inputs: Any, output: Any) -> Any:
                hidden = output[0] if isinstance(output, tuple) else output
                new = hidden[0]
                try:
                    for hook, context in zip(hooks, contexts, strict=True):
                        if layer in hook.layer_indices:
                            context.layer_idx = layer
                            moved = hook.fn(context, new)
                            new = new if moved is None else moved
                except Exception:  # as the plugin does: the layer is left as it was
                    return None
                stream[layer].append(new)
                return (new[None], *output[1:]) if isinstance(output, tuple) else new[None]

            return run

        handles = [block.register_forward_hook(at(layer)) for layer, block in enumerate(self.subject.blocks)]
        try:
            if again:  # the first chunk, and then everything from the beginning
                self.subject.model(input_ids=torch.tensor([ids[:CHUNK]]))
            past, logits = None, []
            for first in range(0, len(ids), CHUNK):
                part = torch.tensor([ids[first : first + CHUNK]])
                out = self.subject.model(input_ids=part, past_key_values=past, use_cache=True)
                past = out.past_key_values
                logits.append(out.logits[0])
            every = torch.cat(logits).log_softmax(dim=1)
            written: list[int] = []
            chances = []
            last = every[-1]
            while True:
                written.append(int(last.argmax()))
                wanted = getattr(params, "logprob_token_ids", None) or [written[-1]]
                chances.append({token: SimpleNamespace(logprob=float(last[token])) for token in wanted})
                if len(written) == params.max_tokens or written[-1] in getattr(params, "stop_token_ids", []):
                    break
                out = self.subject.model(input_ids=torch.tensor([[written[-1]]]), past_key_values=past, use_cache=True)
                past, last = out.past_key_values, out.logits[0, -1].log_softmax(dim=0)
        finally:
            for handle in handles:
                handle.remove()
        found = SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=written, logprobs=chances)],
            prompt_logprobs=[None]
            + [{ids[i]: SimpleNamespace(logprob=float(every[i - 1][ids[i]]))} for i in range(1, len(ids))],
        )
        if hooks:
            found.hook_results = {str(n): context.saved for n, context in enumerate(contexts)}
        if extra.get("output_residual_stream"):
            found.activations = {
                "residual_stream": torch.stack([torch.cat(stream[k]) for k in range(self.subject.n_layers)])
            }
        return found


def install(monkeypatch: Any) -> None:
    """Put the stand-in where `import vllm` and `import vllm_lens` look, and its version where vLLM's is asked for."""
    from llm_persona.subject.engines import vllm_load

    monkeypatch.setattr(vllm_load, "_settle", lambda kind: None)
    monkeypatch.setattr(vllm_load.metadata, "version", lambda name: "0.30.0")
    vllm, lens, lora, request = (ModuleType(n) for n in ("vllm", "vllm_lens", "vllm.lora", "vllm.lora.request"))
    vllm.SamplingParams, lens.Hook = SamplingParams, Hook  # type: ignore[attr-defined]
    vllm.LLM = opened  # type: ignore[attr-defined]
    request.LoRARequest = SimpleNamespace  # type: ignore[attr-defined]
    lora.request, vllm.lora = request, lora  # type: ignore[attr-defined]
    for module in (vllm, lens, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def opened(source: str, dtype: str, **given: Any) -> LLM:
    """What `vllm.LLM(source, ...)` gives: the model of a folder."""
    from llm_persona.subject.load import load_subject

    return LLM(load_subject(source, dtype=dtype))


def on_vllm(subject: Any, preempt: bool = False) -> Any:
    """The same model as a subject of the other engine."""
    from llm_persona.subject.engines import vllm_instruments  # registers what it can do
    from llm_persona.subject.engines.vllm_subject import VllmSubject

    assert vllm_instruments
    about = {**subject.identity, "engine": "vllm stand-in"}
    return VllmSubject(LLM(subject, preempt), subject.tokenizer, about, subject.generation_end)
