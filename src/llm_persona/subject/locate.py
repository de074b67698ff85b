"""Where a model's files are, what it is known by, and whether its files may be read: all without its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_persona.domain.config import Engine
from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.inside import inside
from llm_persona.domain.store import digest, file_digest, read_json
from llm_persona.subject.blocks import SETTING
from llm_persona.subject.file_digests import file_digests
from llm_persona.subject.hub_files import check_hub_files, hub_snapshot
from llm_persona.subject.placement import choose_dtype, place_of
from llm_persona.subject.smollm2 import STAMP, cache_folder, smollm2_folder

DEFAULT_MODEL = "smollm2-135m"
DECIDING = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin")
"""Suffixes of a model folder's files that decide its numbers."""
PICKLED = (
    "its weights are pickled (.bin), and reading those could run code; save it as safetensors in a place you trust "
    "(save_pretrained does), or take a revision that has safetensors"
)


def identify(
    model: str = DEFAULT_MODEL, dtype: str = "auto", device: str = "auto", engine: Engine = "transformers"
) -> dict[str, str]:
    """What `Subject.identity` will be, without loading the weights: the key of everything measured on it."""
    source, extra, revision = locate(model)
    if not revision:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **extra)  # nosec B615
            revision = str(getattr(config, "_commit_hash", "") or "")
        except (OSError, ValueError) as error:
            raise UserError(f"model {model!r}: cannot be found ({one_line(str(error), 300)})") from error
    place, _ = place_of(device)
    kind = str(choose_dtype(dtype, place)).removeprefix("torch.")
    found = {"model": model, "revision": revision, "dtype": kind, "device": place.type}
    if os.environ.get(SETTING):
        found["blocks"] = os.environ[SETTING]  # other blocks, other layers
    if engine == "vllm":
        from llm_persona.subject.engines.vllm_load import engine_version

        found["engine"] = engine_version()  # its kernels decide numbers too
    return found


def family_of(model: str) -> str | None:
    """Name of the model's architecture (`model_type`) without loading weights; None where no configuration is found."""
    from transformers import AutoConfig

    try:
        source, extra, _ = locate(model)
        return str(AutoConfig.from_pretrained(source, **extra).model_type)  # nosec B615
    except (UserError, OSError, ValueError):
        return None


def locate(model: str) -> tuple[str, dict[str, Any], str]:
    """(source for transformers, further arguments, revision known before loading)."""
    if model == DEFAULT_MODEL:
        folder = smollm2_folder()
        return str(folder), {}, str(read_json(folder / STAMP)["sha256"])[:16]
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model {model!r}: no such file")
        return str(path.parent), {"gguf_file": path.name}, file_digest(path)[:16]
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {model!r}: the folder holds no config.json; give a transformers model folder")
        check_hub_files(path, f"model {model!r}")
        _check_weights(path, model)
        return str(path), {}, folder_revision(path)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UserError(f"model {model!r}: no such folder; give {DEFAULT_MODEL}, a folder, a .gguf file or a Hub id")
    return model, {}, ""


def check_hub(model: str) -> None:
    """What the Hub's cache holds of a model is what its digests say."""
    folder = hub_snapshot(model)
    if folder is not None:
        check_hub_files(folder, f"model {model!r}")


def _check_weights(path: Path, model: str) -> None:
    """Weights are safetensors within the folder; what its files name elsewhere, or pickled, is refused."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        entries = read_json(index)
        shards = entries.get("weight_map") if isinstance(entries, dict) else None
        if not isinstance(shards, dict):
            raise UserError(f"{index}: names no weights; save the model again")
        for shard in dict.fromkeys(shards.values()):
            inside(path, shard, str(index))
    elif any(path.glob("*.bin")) and not any(path.glob("*.safetensors")):
        raise UserError(f"model {model!r}: {PICKLED}")
    config = read_json(path / "config.json")
    named = config.get("transformers_weights") if isinstance(config, dict) else None
    if named is None:
        return
    if inside(path, named, str(path / "config.json")).suffix not in (".safetensors", ".json"):
        raise UserError(f"model {model!r}: {PICKLED}")


def folder_revision(path: Path) -> str:
    """Identity of a local model folder: digest of every file that decides its numbers.

    Weights, configuration, tokenizer and chat template count. Digests of large files are remembered
    (see `file_digests`).
    """
    parts = file_digests(sorted(p for p in path.iterdir() if p.suffix in DECIDING), cache_folder())
    return digest(parts)[:16]
