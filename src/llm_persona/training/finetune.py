"""LoRA fine-tuning with PEFT and the transformers trainer; what comes out is a plain PEFT folder."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_persona.domain.adapters import FILES, RECORD, adapter_fault, adapter_record
from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.errors import Damage, UserError
from llm_persona.domain.formats import sealed
from llm_persona.domain.markdown import code, escaped
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.store import digest, file_digest, read_json, write_json, write_text
from llm_persona.subject.load import Subject
from llm_persona.subject.placement import is_spread
from llm_persona.training.along import Watch
from llm_persona.training.data import TrainingData, training_prompts
from llm_persona.training.held_out import split
from llm_persona.training.processes import is_main_process
from llm_persona.training.recipe import Recipe
from llm_persona.training.trainer import train

SETS = ("target_modules", "exclude_modules")
"""What PEFT keeps as sets, and so writes in an order that differs from process to process."""


@dataclass(frozen=True)
class Tuned:
    """What a training did. `losses` holds (step, mean loss as logged: per answer token, the contrast on top).
    `along` holds, by step, the held-out loss and what was watched; `kept_step` is the step the adapter is from."""

    folder: str
    seed: int
    examples: int
    skipped: list[dict[str, Any]]
    steps: int
    losses: list[tuple[int, float]]
    along: list[dict[str, Any]] = field(default_factory=list)
    kept_step: int | None = None


def finetune(
    subject: Subject,
    data: TrainingData,
    out: str | Path,
    recipe: Recipe | None = None,
    seed: int = 0,
    note: str = "",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
    under: Condition = BASE,
    watch: Watch | None = None,
) -> Tuned:
    """Train a LoRA adapter on `data` and write it to `out` as a PEFT folder with a model card.

    Loss is on the answers' tokens and their end-of-turn only. Answers to the same prompt share its
    computation and do not see one another. The subject is as before afterwards. A training that was
    killed goes on from its last checkpoint; a finished one with the same data, recipe, seed, condition and
    model is not repeated, unless its files are no longer as they were written. `overwrite` replaces a finished training
    of ours that had other settings.

    `under` is the state in which the model is trained: steered (preventative steering, ablation) or instructed
    (its system turn stands in the training prompts that have none). The adapter is used without it, and the held-out
    loss and what is watched are measured without it.

    Under `accelerate launch` every process calls this alike; the first one writes.

    Raises:
        UserError: nothing to train on, an adapter, steering or a system turn is on, `out` holds another training, or
            another process trains there.
    """
    recipe = recipe or Recipe()
    folder = Path(out)
    key = training_key(subject.identity, data, recipe, seed, under, watch)
    work = folder.parent / f".{folder.name}.training-{key[:12]}"
    done = finished(folder, key, overwrite)
    if done is not None:
        if is_main_process():
            shutil.rmtree(work, ignore_errors=True)  # of a process that was killed after the last step
        return done
    if subject.adapter is not None or subject.steering_layers or under.adapter is not None:
        raise UserError("finetune: leave the adapter or steering context first")
    if subject.system is not None:
        raise UserError("finetune: leave the system turn first; to train under one, give under=Condition(system=...)")
    if is_spread(subject.model):
        raise UserError(f"finetune: {subject.name} is spread over several devices; load it on one, e.g. --device cuda")
    learn, held = split(data, recipe.held_out, seed) if recipe.held_out else (data, None)
    with subject.under(Condition(system=under.system)):
        prompts = training_prompts(subject, learn, recipe.max_tokens, contrast=recipe.contrast > 0)
    measured = training_prompts(subject, held, recipe.max_tokens) if held is not None else None
    skipped = [asdict(s) for s in [*data.skipped, *prompts.skipped, *(measured.skipped if measured else ())]]
    if not prompts.trees or (measured is not None and not measured.trees):
        raise UserError(f"{data.source}: not one conversation fits {recipe.max_tokens} tokens")
    with _alone(work, folder):
        course = train(subject, prompts, measured, recipe, seed, work, under, watch, progress)
        result = Tuned(
            str(folder), seed, prompts.learnt, skipped, course.steps, course.losses, course.along, course.kept_step
        )
        if course.main:  # what was trained stays in `work` until it is in its place
            _write(course.made, subject, data, recipe, result, key, note, under)
            if folder.exists():
                shutil.rmtree(folder)
            course.made.replace(folder)
            shutil.rmtree(work, ignore_errors=True)
        course.wait()
    return result


@contextmanager
def _alone(work: Path, folder: Path) -> Iterator[None]:
    """Refuse where another process trains the very same thing: they would write over one another's checkpoints. Of
    processes that train together, the first asks for all."""
    if not is_main_process():
        yield
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / ".lock").acquire(timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"--out {folder}: another process is training there; wait or choose another folder") from error


def training_key(
    identity: dict[str, str],
    data: TrainingData,
    recipe: Recipe,
    seed: int,
    under: Condition = BASE,
    watch: Watch | None = None,
) -> str:
    """Digest of everything that decides a training, and of what is measured along the way."""
    watched = [watch.every, watch.key] if watch is not None else None
    products = ["bfloat16 products"] if identity.get("dtype") == "bfloat16" else []  # (once were float32 ones)
    return digest([data.digest, asdict(recipe), seed, identity, under.state, watched, *products])


def holds_training(folder: str | Path, key: str) -> bool:
    """Whether the folder holds the finished training of that key, with its files as they were written."""
    place = Path(folder)
    record = adapter_record(place)
    if record is None or record.get("key") != key:
        return False
    fault = adapter_fault(place)
    if fault:
        warnings.warn(f"{fault}; it is trained again", Damage, stacklevel=2)
    return not fault


def finished(folder: Path, key: str, overwrite: bool = False) -> Tuned | None:
    """What the folder's finished training did, if it is the one of that key; None where there is something to train.

    Raises:
        UserError: the folder holds another training, or what is no training of ours.
    """
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not (folder / RECORD).is_file():
        if any(folder.iterdir()):
            raise UserError(f"--out {folder}: exists and is no training of ours; choose another folder")
        return None
    record = adapter_record(folder)
    if record is None and not overwrite:
        raise UserError(f"{folder / RECORD}: is not as it was written; delete {folder}, and it is trained again")
    if record is None or (overwrite and record.get("key") != key):
        return None
    if record.get("key") != key:
        raise UserError(f"--out {folder}: holds a training with other data or settings; choose another folder")
    if not holds_training(folder, key):
        return None
    stored = dict(record["result"], folder=str(folder))
    stored["losses"] = [(int(a), float(b)) for a, b in stored["losses"]]
    return Tuned(**stored)


def _write(
    made: Path,
    subject: Subject,
    data: TrainingData,
    recipe: Recipe,
    result: Tuned,
    key: str,
    note: str,
    under: Condition,
) -> None:
    """The model card, the record, and the adapter configuration."""
    write_json(made / "adapter_config.json", canonical_config(read_json(made / "adapter_config.json"), subject.name))
    record = {
        "key": key,
        "subject": subject.identity,
        "data": {"source": data.source, "digest": data.digest, "items": list(data.item_ids)},
        "recipe": asdict(recipe),
        "under": under.as_json(),
        "result": asdict(result),
        "versions": versions(),
        "revision": git_revision(),
        "files": {name: file_digest(made / name) for name in FILES},
    }
    write_json(made / RECORD, sealed("adapter", record))
    skipped = (
        f"{len(result.skipped)} rows were left out (listed in {RECORD})." if result.skipped else "No row was left out."
    )
    write_text(
        made / "README.md",
        f"""---
library_name: peft
base_model: {json.dumps(subject.name)}
tags: [lora, llm-persona]
---
# LoRA adapter made by llm-persona

{note or "Trained on the assistant turns of a data set."}

- Base model: {code(subject.name)} (revision {code(subject.revision)}, trained in {subject.identity["dtype"]})
- Data: {code(data.source)}, {result.examples} answers, digest `{data.digest[:16]}`. {skipped}
- Recipe: rank {recipe.rank}, alpha {recipe.alpha}{" (rank-stabilised)" if recipe.rank_stabilised else ""}, \
epochs {recipe.epochs}, learning rate {recipe.learning_rate}, \
{recipe.prompts_per_step} prompts a step, targets {recipe.target_modules} from {recipe.depth[0]:g} to \
{recipe.depth[1]:g} of the depth, odds-ratio contrast {recipe.contrast:g}, seed {result.seed}
- Trained under: {escaped(under.name)}{f" (system turn: {escaped(under.system)})" if under.system else ""}
- Steps: {result.steps}, kept from step {result.kept_step}{_loss_line(result)}{_held_out_line(result)}

It was made to study how training moves a model's persona. Measure it before you use it:
`llm-persona evaluate --adapter DIR`.
""",
    )


def canonical_config(config: dict[str, Any], model: str) -> dict[str, Any]:
    """An adapter's configuration as every process writes it, so that equal trainings have equal digests: it names the
    model, not a path of this machine, and what is a set is sorted (a single pattern stays as it is)."""
    sets = {name: sorted(config[name]) for name in SETS if isinstance(config.get(name), list)}
    return {**config, **sets, "base_model_name_or_path": model}


def _loss_line(result: Tuned) -> str:
    if not result.losses:
        return ""
    return f"; loss {result.losses[0][1]:.3f} at the first log, {result.losses[-1][1]:.3f} at the last"


def _held_out_line(result: Tuned) -> str:
    losses = [(row["step"], row["held_out"]) for row in result.along if "held_out" in row]
    if not losses:
        return ""
    return f"; held-out loss {losses[0][1]:.3f} at step {losses[0][0]}, {losses[-1][1]:.3f} at step {losses[-1][0]}"
