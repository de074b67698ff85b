"""Put a LoRA adapter on the subject, and take it off again without a trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.load import Subject


def check_adapter(folder: str | Path) -> Path:
    """The folder, if it is a PEFT adapter with safetensors weights (pickled ones are never opened)."""
    path = Path(folder)
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"adapter {str(folder)!r}: no adapter_config.json there; give a PEFT folder")
    if not (path / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {str(folder)!r}: no adapter_model.safetensors there; save it as safetensors")
    return path


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
    try:
        yield subject
    finally:
        wrapped.unload()
        subject.adapter = None


def merge(subject: Subject, folder: str | Path) -> None:
    """Fold the adapter into the subject's weights for good."""
    path = check_adapter(folder)
    subject.model = _attach(subject, path).merge_and_unload()
    subject.name = f"{subject.name}+{path.name}"


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
