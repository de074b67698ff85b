"""Load a subject model from a name, a folder, a Hub id or a GGUF file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from llm_persona.domain.condition import Condition
from llm_persona.domain.config import Engine
from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.blocks import SETTING, decoder_of, find_blocks, probe
from llm_persona.subject.locate import DEFAULT_MODEL, PICKLED, check_hub, locate
from llm_persona.subject.memory import TOKEN_BUDGET, token_budget_of
from llm_persona.subject.placement import SPREAD, choose_dtype, input_device, is_quantised, place_of


@dataclass
class Subject:
    """A model under study. `model` and `tokenizer` are the transformers objects.

    `system` is the system turn of the condition the subject is in (None: the template's own default).
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str
    blocks: nn.ModuleList
    decoder: nn.Module
    system: str | None = None
    adapter: str | None = None
    merged: tuple[str, ...] = ()
    """Digests of the adapters that are folded into the weights for good: folders of one name may differ."""
    shares_prompts: bool = True
    """Whether several responses may be read in one packed sequence (proved by a probe at load)."""
    shares_prefix: bool = True
    """Whether what all texts of a call begin with may be read once, into a cache (proved likewise)."""
    token_budget: int = TOKEN_BUDGET
    """Padded tokens in one batch."""
    current_rows: list[int] | None = None
    """Which of the caller's rows are in the batch that `generate` is running now."""
    steering_layers: list[int] = field(default_factory=list)
    """Layers at which a steering context is active now."""
    steered: list[Any] = field(default_factory=list)
    """What each of these does, as plain data."""
    steering_thread: int | None = None
    """The thread that steers: another one must not use the subject meanwhile."""
    blocks_path: str | None = None
    """Where the blocks were said to be; None where they were found."""
    responses: Any = None
    """Where responses are in the forward that runs now; see `subject.reading`."""

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the residual stream: that of the weights, or of those that are not quantised."""
        kinds = (p.dtype for p in self.model.parameters() if p.dtype.is_floating_point and p.dtype.itemsize > 1)
        return next(kinds, torch.float32)  # (asked for with every batch: hundreds of parameters are not gone through)

    @property
    def text_config(self) -> Any:
        """Configuration of the language model (of a model with several parts, that part's)."""
        return _text_config(self.model)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.text_config.hidden_size)

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens."""
        return int(getattr(self.text_config, "max_position_embeddings", 0) or 1 << 20)

    @property
    def generation_end(self) -> int | list[int] | None:
        """End tokens by the model's generation settings."""
        return getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)

    @property
    def window(self) -> int | None:
        """Attention window in tokens where the architecture has one (packing would lose it in longer sequences)."""
        config = self.text_config
        size = getattr(config, "sliding_window", None)
        return int(size) if size and getattr(config, "use_sliding_window", True) else None

    @property
    def identity(self) -> dict[str, str]:
        """What decides its numbers: model, revision, dtype, kind of device, adapters folded in."""
        kind = str(self.dtype).removeprefix("torch.")
        found = {"model": self.name, "revision": self.revision, "dtype": kind, "device": self.device.type}
        if self.merged:
            found["adapter"] = "+".join(self.merged)
        return found if self.blocks_path is None else {**found, "blocks": self.blocks_path}

    @contextmanager
    def under(self, condition: Condition) -> Iterator[Subject]:
        """Put the subject into `condition`, and back in every case."""
        from llm_persona.subject.adapt import adapted
        from llm_persona.subject.steer import steered_by

        with ExitStack() as stack:
            if condition.adapter is not None:
                stack.enter_context(adapted(self, condition.adapter))
            for steer in condition.steers:
                stack.enter_context(steered_by(self, steer))
            before = self.system
            if condition.system is not None:
                self.system = condition.system
            try:
                yield self
            finally:
                self.system = before


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def load_subject(
    model: str = DEFAULT_MODEL,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str | dict[str, Any] = "auto",
    trust_remote_code: bool = False,
    blocks: str | None = None,
    engine: Engine = "transformers",
) -> Subject:
    """Load a subject.

    Args:
        model: `smollm2-135m`, a local folder, a `.gguf` file or a Hub id.
        adapter: a PEFT folder to merge the subject with for good (for a passing state use a condition).
        dtype: `float32`, `bfloat16`, `float16`; `auto` takes bfloat16 where the machine computes in it.
        device: `auto`, `cpu`, `cuda`, `mps`, ...; `balanced`, `balanced_low_0` or `sequential` spread the blocks over
            all accelerators, and over the CPU's memory where they do not suffice; or transformers' device map (a dict
            of module names to devices, "disk" among them). Quantised models are loaded where they stay.
        blocks: path of the list of decoder blocks in the model, e.g. `model.layers`, where it is not found by itself
            (default: the environment variable LLM_PERSONA_BLOCKS).
        engine: what runs it; `vllm` needs the extra of that name (docs/how-to/vllm.md).

    Raises:
        UserError: no such model, a folder that is none, an unknown dtype or device, or an architecture
            whose blocks cannot be found.
    """
    if engine == "vllm":
        from llm_persona.subject.engines.vllm_load import load_vllm

        if not isinstance(device, str) or device in SPREAD or blocks or os.environ.get(SETTING):
            raise UserError(f"--engine vllm spreads the model by itself: plain --device, no blocks, no {SETTING}")
        return load_vllm(model, adapter, dtype, device)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    where, spread = place_of(device)
    kind = choose_dtype(dtype, where)
    source, extra, revision = locate(model)
    of_hub = not revision
    if of_hub:
        check_hub(model)
    # weights of a repository that has pickled ones alone would be converted for us by a service of the Hub
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    given: dict[str, Any] = {"trust_remote_code": trust_remote_code, **extra}
    weights: dict[str, Any] = {} if "gguf_file" in extra else {"use_safetensors": True}
    try:  # which revision it is stands in every result; pinning one would be the user's (NAME is what they trust)
        tokenizer = AutoTokenizer.from_pretrained(source, **given)  # nosec B615
        if spread is None and not extra and is_quantised(AutoConfig.from_pretrained(source, **given)):  # nosec B615
            spread = {"": where}  # its weights cannot be moved afterwards
        if spread is not None:
            weights["device_map"] = spread
        loaded = AutoModelForCausalLM.from_pretrained(source, dtype=kind, **weights, **given)  # nosec B615
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if "use_safetensors" in str(error):
            raise UserError(f"model {model!r}: {PICKLED}") from error
        raise UserError(f"model {model!r}: cannot be loaded ({one_line(str(error), 300)})") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("safetensors", "safetensors_rust", "huggingface_hub", "httpx"):
            raise UserError(f"model {model!r}: cannot be loaded ({one_line(str(error), 300)})") from error
        raise
    if of_hub:  # what has just come
        check_hub(model)
    if spread is None:
        loaded = loaded.to(where)
    loaded = loaded.eval().requires_grad_(False)
    revision = revision or str(getattr(loaded.config, "_commit_hash", ""))
    subject = wrap(loaded, tokenizer, name=model, revision=revision, blocks=blocks)
    if adapter is not None:
        from llm_persona.subject.adapt import merge

        merge(subject, adapter)
    return subject


def wrap(model: Any, tokenizer: Any, name: str = "custom", revision: str = "", blocks: str | None = None) -> Subject:
    """A subject from transformers objects already in memory; its blocks are probed here (`blocks`: their path, where
    they are not found by themselves).

    A tokenizer without a padding token pads with its end token, or with token 0: padding is masked everywhere.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    found = find_blocks(model, blocks)
    probe(model, found, int(_text_config(model).hidden_size))
    subject = Subject(model, tokenizer, name, revision, found, decoder_of(model))
    from llm_persona.subject.batched import sharing_that_is_exact

    subject.blocks_path = blocks or os.environ.get(SETTING) or None
    subject.shares_prompts, subject.shares_prefix = sharing_that_is_exact(subject)
    subject.token_budget = token_budget_of(subject.device)
    return subject
