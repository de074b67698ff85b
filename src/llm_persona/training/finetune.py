"""LoRA fine-tuning with PEFT and the transformers trainer; what comes out is a plain PEFT folder."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.store import digest, read_json, write_json, write_text
from llm_persona.subject.load import Subject
from llm_persona.subject.logits import logits_at
from llm_persona.subject.packing import Tree, pack
from llm_persona.training.data import TrainingData, training_trees

RECORD = "llm-persona.json"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides the data and the seed."""

    rank: int = 16
    alpha: int = 32
    epochs: int = 2
    learning_rate: float = 5e-4
    prompts_per_step: int = 4
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    max_tokens: int = 1024
    target_modules: str = "all-linear"


PERSONA = Recipe(epochs=1, learning_rate=2e-3, prompts_per_step=2)
"""For a trait's few dozen items: small steps in number, large in size. Chosen on the select split of our own
items among rates of 5e-4 to 4e-3 and 2 or 4 prompts a step (docs/notes.md)."""


@dataclass(frozen=True)
class Tuned:
    """What a training did. `losses` holds (step, mean loss per answer token) as logged."""

    folder: str
    seed: int
    examples: int
    skipped: list[dict[str, Any]]
    steps: int
    losses: list[tuple[int, float]]


def finetune(
    subject: Subject,
    data: TrainingData,
    out: str | Path,
    recipe: Recipe | None = None,
    seed: int = 0,
    note: str = "",
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Tuned:
    """Train a LoRA adapter on `data` and write it to `out` as a PEFT folder with a model card.

    Loss is on the answers' tokens and their end-of-turn only. Answers to the same prompt share its
    computation and do not see one another. The subject is as before afterwards. A training that was
    killed starts again from its last epoch; a finished one with the same data, recipe, seed and model is
    not repeated. `overwrite` replaces a finished training of ours that had other settings.

    Raises:
        UserError: nothing to train on, the subject already carries an adapter, or `out` holds another training.
    """
    recipe = recipe or Recipe()
    folder = Path(out)
    key = training_key(subject.identity, data, recipe, seed)
    done = _finished(folder, key, overwrite)
    if done is not None:
        return done
    if subject.adapter is not None or subject.steering_layers:
        raise UserError("finetune: leave the adapter or steering context first")
    trees, too_long = training_trees(subject, data, recipe.max_tokens)
    skipped = [asdict(s) for s in [*data.skipped, *too_long]]
    if not trees:
        raise UserError(f"{data.source}: not one conversation fits {recipe.max_tokens} tokens")
    work = folder.parent / f".{folder.name}.training-{key[:12]}"
    steps, losses, made = _train(subject, trees, recipe, seed, work, progress)
    try:
        result = Tuned(str(folder), seed, sum(len(t.branches) for t in trees), skipped, steps, losses)
        _write(made, subject, data, recipe, result, key, note)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return result


def training_key(identity: dict[str, str], data: TrainingData, recipe: Recipe, seed: int) -> str:
    """Digest of everything that decides a training."""
    return digest([data.digest, asdict(recipe), seed, identity])


def holds_training(folder: str | Path, key: str) -> bool:
    """Whether the folder holds the finished training of that key."""
    record = Path(folder) / RECORD
    return record.is_file() and read_json(record).get("key") == key


def _finished(folder: Path, key: str, overwrite: bool) -> Tuned | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    if not (folder / RECORD).is_file():
        if any(folder.iterdir()):
            raise UserError(f"--out {folder}: exists and is no training of ours; choose another folder")
        return None
    record = read_json(folder / RECORD)
    if record.get("key") != key:
        if overwrite:
            return None
        raise UserError(f"--out {folder}: holds a training with other data or settings; choose another folder")
    stored = dict(record["result"], folder=str(folder))
    stored["losses"] = [(int(a), float(b)) for a, b in stored["losses"]]
    return Tuned(**stored)


def _whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; the trainer writes `trainer_state.json` last. What a kill
    left half-written is removed, or the trainer would stumble over it for ever."""
    whole = []
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])):
        try:
            read_json(path / "trainer_state.json")
            whole.append(str(path))
        except UserError:
            shutil.rmtree(path, ignore_errors=True)
    return whole[-1] if whole else None


class _Trees(torch.utils.data.Dataset):
    def __init__(self, trees: list[Tree]) -> None:
        self.trees = trees

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, index: int) -> Tree:
        return self.trees[index]


def collate(trees: list[Tree], pad_id: int, dtype: torch.dtype, shared: bool = True) -> dict[str, torch.Tensor]:
    """A packed batch with labels [batch, length]: the answers' tokens, -100 elsewhere."""
    packed = pack(trees, pad_id, torch.device("cpu"), dtype, plain=not shared)
    labels = torch.full_like(packed.input_ids, -100)
    for sequence, _row, start, end, _previous in packed.spans:
        labels[sequence, start:end] = packed.input_ids[sequence, start:end]
    return {**packed.inputs, "labels": labels}


def answer_loss(model: Any, inputs: dict[str, torch.Tensor], items: torch.Tensor | int | None = None) -> torch.Tensor:
    """Cross-entropy on labelled tokens; logits at the places that predict them and nowhere else.

    The token before a labelled one predicts it: a branch always begins with a token of the prompt.
    """
    labels = inputs["labels"]
    sequences, places = (labels != -100).nonzero(as_tuple=True)
    kept = {name: value for name, value in inputs.items() if name != "labels"}
    logits = logits_at(model, kept, sequences, places - 1)
    total = torch.nn.functional.cross_entropy(logits.float(), labels[sequences, places], reduction="sum")
    return total / (items if items is not None else len(places))


def _train(
    subject: Subject,
    trees: list[Tree],
    recipe: Recipe,
    seed: int,
    work: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[int, list[tuple[int, float]], Path]:
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            loss = answer_loss(model, inputs, num_items_in_batch)
            return (loss, None) if return_outputs else loss

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps)

    device, random_state = subject.device, torch.get_rng_state()
    set_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(
            subject.model,
            LoraConfig(
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=0.0,
                target_modules=recipe.target_modules,
                task_type="CAUSAL_LM",
            ),
        )
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    steps_per_epoch = -(-len(trees) // recipe.prompts_per_step)
    try:
        arguments = TrainingArguments(
            output_dir=str(work / "checkpoints"),
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.prompts_per_step,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=max(1, round(recipe.warmup_share * steps_per_epoch * recipe.epochs)),
            weight_decay=recipe.weight_decay,
            logging_steps=max(1, steps_per_epoch // 2),
            save_strategy="epoch",
            save_total_limit=1,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=subject.device.type == "cpu",
            seed=seed,
            data_seed=seed,
            log_level="error",
        )
        arguments._n_gpu = min(1, arguments.n_gpu)  # one device: DataParallel would hide the output layer
        pad = subject.tokenizer.pad_token_id
        shared = any(len(tree.branches) > 1 for tree in trees)
        trainer = AnswerTrainer(
            model=wrapped,
            args=arguments,
            train_dataset=_Trees(trees),
            data_collator=lambda batch: collate(batch, pad, subject.dtype, shared),
            callbacks=[Report()],
        )
        from transformers.trainer_callback import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        checkpoint = _whole_checkpoint(work / "checkpoints")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train(resume_from_checkpoint=checkpoint)
        history = [(int(e["step"]), float(e["loss"])) for e in trainer.state.log_history if "loss" in e]
        made = work / "made"
        shutil.rmtree(made, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped.save_pretrained(made)
        return trainer.state.global_step, history, made
    finally:
        wrapped.unload()
        subject.model.to(device).eval().requires_grad_(False)
        torch.set_rng_state(random_state)


def _write(
    made: Path, subject: Subject, data: TrainingData, recipe: Recipe, result: Tuned, key: str, note: str
) -> None:
    """The model card, the record, and an adapter configuration that names the model, not a path of this machine."""
    config = read_json(made / "adapter_config.json")
    config["base_model_name_or_path"] = subject.name
    write_json(made / "adapter_config.json", config)
    record = {
        "key": key,
        "subject": subject.identity,
        "data": {"source": data.source, "digest": data.digest, "items": list(data.item_ids)},
        "recipe": asdict(recipe),
        "result": asdict(result),
        "versions": versions(),
        "revision": git_revision(),
    }
    write_json(made / RECORD, record)
    skipped = (
        f"{len(result.skipped)} rows were left out (listed in {RECORD})." if result.skipped else "No row was left out."
    )
    write_text(
        made / "README.md",
        f"""---
library_name: peft
base_model: {subject.name}
tags: [lora, llm-persona]
---
# LoRA adapter made by llm-persona

{note or "Trained on the assistant turns of a data set."}

- Base model: `{subject.name}` (revision `{subject.revision}`, trained in {subject.identity["dtype"]})
- Data: `{data.source}`, {result.examples} answers, digest `{data.digest[:16]}`. {skipped}
- Recipe: rank {recipe.rank}, alpha {recipe.alpha}, {recipe.epochs} epochs, learning rate {recipe.learning_rate}, \
{recipe.prompts_per_step} prompts a step, targets {recipe.target_modules}, seed {result.seed}
- Steps: {result.steps}; loss per answer token {result.losses[0][1]:.3f} at the first log, \
{result.losses[-1][1]:.3f} at the last

It was made to study how training moves a model's persona. Measure it before you use it:
`llm-persona evaluate --adapter DIR`.
""",
    )
