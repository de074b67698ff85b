"""A subject that vLLM runs: asked in requests, steered and read by hooks that travel with them (vllm-lens)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.engines.vllm_hooks import Move, Pool
from llm_persona.subject.load import Subject
from llm_persona.subject.steer import SteeringCount

HOOKED = 64
"""Requests at once where each brings hooks of its own: the plugin looks through all of them at every layer."""
PLAIN = 512
"""Requests at once otherwise; vLLM batches them itself, so this is only how often progress is told."""
MAX_RANK = 64
"""Largest rank of a LoRA adapter: vLLM sets room for it aside at its start."""
INSIDE = ("model", "blocks", "decoder")


@dataclass(frozen=True)
class Request:
    """Token ids, where the response begins in them, and the arguments of vLLM's `SamplingParams`."""

    ids: list[int]
    begins: int
    settings: dict[str, Any]
    row: int = 0
    """The caller's row, for steering by row."""
    pool: Pool | None = None


@dataclass(frozen=True)
class Steering:
    """A steering context that is on. `move` gives a request's hook from its row and where its response begins."""

    layer: int
    move: Callable[[int, int], Move]
    by_request: bool
    count: SteeringCount = field(default_factory=SteeringCount)


class VllmSubject(Subject):
    """A model under study whose forward runs in vLLM's own processes.

    Everything that asks, records, scores or steers takes it like any subject. What needs the transformers objects
    (training, export, the playground's live view) finds none, and says so.
    """

    def __init__(self, llm: Any, tokenizer: Any, about: dict[str, str], generation_end: Any) -> None:
        """`about`: the subject's identity (see `subject.locate.identify`)."""
        config = llm.llm_engine.model_config
        self.llm = llm
        self.tokenizer = tokenizer
        self.name, self.revision = about["model"], about["revision"]
        self.system: str | None = None
        self.adapter: str | None = None
        self.shares_prompts = False
        self.current_rows: list[int] | None = None
        self.steering_layers: list[int] = []
        self.steered: list[Any] = []
        self.steering_thread: int | None = None
        self.responses = None
        self.steerings: list[Steering] = []
        self.lora: Any = None
        """vLLM's request for the adapter that is on."""
        self.adapters: dict[str, int] = {}
        """Numbers that vLLM knows adapters by, by the digest of their files."""
        self._about = about
        self._end = generation_end
        self._shape = (int(config.get_total_num_hidden_layers()), int(config.get_hidden_size()))
        self._longest = int(config.max_model_len)
        weakref.finalize(self, _stop, llm)

    def __getattr__(self, name: str) -> Any:
        """Only called for what is not there."""
        if name in INSIDE:
            raise UserError(f"{self.name}: this looks inside the model, which vLLM does not show; leave --engine out")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"VllmSubject({self.name!r})"

    @property
    def device(self) -> torch.device:
        """Where inputs go: to the engine, from this process's memory."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream."""
        return getattr(torch, self._about["dtype"])

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return self._shape[0]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self._shape[1]

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens: one less than the model's, since vLLM always generates at least one."""
        return self._longest - 1

    @property
    def window(self) -> int | None:
        """Windows are vLLM's own business: nothing is packed for it."""
        return None

    @property
    def generation_end(self) -> int | list[int] | None:
        """End tokens by the model's generation settings."""
        return self._end

    @property
    def identity(self) -> dict[str, str]:
        """What decides its numbers, the engine and its version among it."""
        return self._about

    def describe(self, about: dict[str, str]) -> None:
        """Change `identity`: an adapter for good is part of what it is."""
        self._about = about

    def ask(self, requests: Sequence[Request], told: Callable[[int], None] | None = None) -> list[Any]:
        """vLLM's outputs, in the requests' order; `told` is given how many are done, part by part.

        Raises:
            RuntimeError: a hook did not see all of a request's tokens exactly once.
        """
        own = any(s.by_request for s in self.steerings) or any(r.pool is not None for r in requests)
        own = own or any(r.settings != requests[0].settings for r in requests)
        hooked = self.steerings or any(r.pool is not None for r in requests)
        size = HOOKED if own and hooked else PLAIN
        found = []
        for first in range(0, len(requests), size):
            part = requests[first : first + size]
            found += self._whole(part, own)
            if told is not None:
                told(len(part))
        return found

    def _whole(self, requests: Sequence[Request], own: bool) -> list[Any]:
        """The outputs, each of which every hook has read whole. Where memory for keys and values ran out, vLLM has
        begun a request again and its hooks have seen tokens twice: such a request is asked again, alone."""
        outputs = self._run(requests, own)
        for number, (request, output) in enumerate(zip(requests, outputs, strict=True)):
            touched = self._touched(request, output)
            if touched is None and len(requests) > 1:
                outputs[number] = self._whole([request], own)[0]
            elif touched is None:
                raise RuntimeError("vLLM: a hook did not see every token of a request once; nothing was taken over")
            else:
                for steering, count in zip(self.steerings, touched, strict=True):
                    steering.count.tokens += count
        return outputs

    def _run(self, requests: Sequence[Request], own: bool) -> list[Any]:
        from vllm import SamplingParams

        def params(request: Request) -> Any:
            hooks = [_hook(s.move(request.row, request.begins), [s.layer]) for s in self.steerings]
            if request.pool is not None:  # last: it reads what steering left
                hooks.append(_hook(request.pool, list(range(self.n_layers))))
            given = {**request.settings, "detokenize": False}
            extra = {**given.pop("extra_args", {}), **({"apply_hooks": hooks} if hooks else {})}
            return SamplingParams(**given, extra_args=extra or None)

        # (made anew for every call: the plugin empties the ones it is given)
        asked = [params(r) for r in requests] if own else params(requests[0])
        prompts = [{"prompt_token_ids": r.ids} for r in requests]
        return list(self.llm.generate(prompts, asked, lora_request=self.lora, use_tqdm=False))

    def _touched(self, request: Request, output: Any) -> list[int] | None:
        """How many tokens each steering moved; None if a hook did not see the request's tokens once each.

        The last generated token is not read any more, unless vLLM had begun its step already.
        """
        read = len(request.ids) + len(output.outputs[0].token_ids) - 1
        results = getattr(output, "hook_results", None) or {}
        touched = []
        for number, steering in enumerate(self.steerings):
            seen, count = results.get(str(number), {}).get(str(steering.layer), (0, 0))
            if seen not in (read, read + 1):
                return None
            touched.append(count)
        if request.pool is not None:
            sums = results.get(str(len(self.steerings)), {})
            wanted = request.pool.stop - request.pool.start
            for layer in range(self.n_layers):
                seen, count, _total = sums.get(str(layer), (0, 0, None))
                if seen not in (read, read + 1) or count != wanted:
                    return None
        return touched

    def pooled(self, request: Request, output: Any) -> torch.Tensor:
        """Mean activation over the tokens of the request's pool, float32 [layers, hidden]."""
        assert request.pool is not None
        sums = output.hook_results[str(len(self.steerings))]
        totals = torch.stack([sums[str(layer)][2] for layer in range(self.n_layers)])
        return totals / (request.pool.stop - request.pool.start)


def _hook(function: Move | Pool, layers: list[int]) -> Any:
    from vllm_lens import Hook

    return Hook(fn=function, layer_indices=layers)


def _stop(llm: Any) -> None:
    """End the engine's processes: they hold the weights."""
    core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    if core is not None:
        core.shutdown()
