"""A subject before its weights are there: texts can be rendered for it, so that tokenisation does not wait for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import nn

from llm_persona.subject.load import Subject


def unloaded(name: str, source: str, tokenizer: Any, given: Mapping[str, Any]) -> Subject:
    """What `subject.chat` needs to know of a subject, and nothing else.

    Args:
        source: where its files are. given: what transformers gets to find them.

    Raises:
        OSError, ValueError: no configuration there, or one that transformers cannot read.
    """
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(source, **given)  # nosec B615  (NAME is what the user trusts)
    try:
        ends = GenerationConfig.from_pretrained(source)  # nosec B615
    except OSError:  # a model without such a file takes them from its configuration
        ends = GenerationConfig.from_model_config(config)
    bare = SimpleNamespace(config=config, generation_config=ends)
    return Subject(bare, tokenizer, name, "", nn.ModuleList(), nn.Module())
