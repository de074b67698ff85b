"""Put a LoRA adapter on the subject, and take it off again without a trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatch
from pathlib import Path

import torch

from llm_persona.domain.adapters import adapter_digest, adapter_fault
from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import read_json
from llm_persona.subject.hub_files import check_hub_files
from llm_persona.subject.load import Subject

MERGE_LIMIT = 2 << 30
"""Bytes of weights that may be kept twice while an adapter is on."""


def check_adapter(folder: str | Path) -> Path:
    """The folder, if it is a PEFT adapter with safetensors weights (pickled ones are never opened). One that we trained
    must be as it was written."""
    path = Path(folder)
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"adapter {str(folder)!r}: no adapter_config.json there; give a PEFT folder")
    if not (path / "adapter_model.safetensors").is_file() and any(path.glob("*.bin")):
        raise UserError(
            f"adapter {str(folder)!r}: its weights are pickled (.bin), and reading those could run code; save it as "
            "safetensors in a place you trust (PEFT's save_pretrained does)"
        )
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {str(folder)!r}: no adapter_model.safetensors there; save it as safetensors")
    check_hub_files(path, f"adapter {str(folder)!r}")
    fault = adapter_fault(path)
    if fault:
        raise UserError(
            f"{fault}; train the adapter again, or delete its llm-persona.json if you changed it on purpose"
        )
    config = read_json(path / "adapter_config.json")
    if not isinstance(config, dict):
        raise UserError(f"adapter {str(folder)!r}: adapter_config.json is no object; save the adapter again")
    for name, harmless in (("modules_to_save", None), ("trainable_token_indices", None), ("bias", "none")):
        if config.get(name) not in (harmless, None, []):
            raise UserError(
                f"adapter {str(folder)!r}: it replaces base weights ({name}); merge it into a model folder and "
                "give that as --model"
            )
    return path


@singledispatch
@contextmanager
def adapted(subject: Subject, folder: str | Path) -> Iterator[Subject]:
    """The subject with the adapter of a PEFT folder; the very same base weights afterwards.

    Raises:
        UserError: no adapter there, one for another architecture, or an adapter is on already.
    """
    path = check_adapter(folder)
    if subject.adapter is not None:
        raise UserError(f"adapter {str(folder)!r}: the subject already carries {subject.adapter!r}; leave that first")
    wrapped = _attach(subject, path)
    subject.adapter = str(path)
    saved: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    merged = False
    try:
        saved = _weights_to_merge(subject)
        if saved:
            merged = True
            wrapped.merge_and_unload()
        yield subject
    finally:
        if merged:
            for weight, original in saved:
                weight.data.copy_(original)
        else:
            wrapped.unload()
        subject.adapter = None


def _weights_to_merge(subject: Subject) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Copies of the adapted weights of a small float32 model: there the adapter is folded in while it is on (its
    small matrices cost a third of the forward on a CPU), and the copies put back exactly. In shorter formats
    folding would round the adapter away, and for large models the copies are too big: the list is empty."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in subject.model.modules() if isinstance(m, BaseTunerLayer)]
    weights = [m.get_base_layer().weight for m in layers]
    plain = all(type(m.get_base_layer()) is torch.nn.Linear for m in layers)
    if subject.dtype != torch.float32 or not plain or sum(w.numel() for w in weights) * 4 > MERGE_LIMIT:
        return []
    return [(w, w.detach().clone()) for w in weights]


def merge(subject: Subject, folder: str | Path) -> None:
    """Fold the adapter into the subject's weights for good."""
    path = check_adapter(folder)
    subject.model = _attach(subject, path).merge_and_unload()
    subject.name = f"{subject.name}+{path.name}"
    subject.merged += (adapter_digest(path)[:16],)


def _attach(subject: Subject, path: Path):  # type: ignore[no-untyped-def]
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(subject.model, str(path), is_trainable=False)
    except Exception as error:  # peft raises ValueError, RuntimeError, KeyError, TypeError by the kind of mismatch
        _strip(subject)
        raise UserError(
            f"adapter {str(path)!r}: does not fit {subject.name!r} ({one_line(str(error), 200)})"
        ) from error
    wrapped.eval()
    return wrapped


def _strip(subject: Subject) -> None:
    """Remove the layers that a failed load left behind."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(subject.model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent = subject.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
