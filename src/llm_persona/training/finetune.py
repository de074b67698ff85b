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
from llm_persona.subject.packing import Tree
from llm_persona.training.data import Prompts, TrainingData, training_prompts
from llm_persona.training.loss import answer_loss, collate
from llm_persona.training.recipe import Recipe

RECORD = "llm-persona.json"


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
    prompts = training_prompts(subject, data, recipe.max_tokens, contrast=recipe.contrast > 0)
    skipped = [asdict(s) for s in [*data.skipped, *prompts.skipped]]
    if not prompts.trees:
        raise UserError(f"{data.source}: not one conversation fits {recipe.max_tokens} tokens")
    work = folder.parent / f".{folder.name}.training-{key[:12]}"
    steps, losses, made = _train(subject, prompts, recipe, seed, work, progress)
    try:
        result = Tuned(str(folder), seed, prompts.learnt, skipped, steps, losses)
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


class _Prompts(torch.utils.data.Dataset):
    def __init__(self, trees: list[list[Tree]]) -> None:
        self.trees = trees

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, index: int) -> list[Tree]:
        return self.trees[index]


def adapted_modules(subject: Subject, recipe: Recipe) -> dict[str, Any]:
    """PEFT's `target_modules`, and `layers_to_transform` where not the whole depth is adapted (PEFT takes no
    `all-linear` together with chosen layers, so the linear modules are named)."""
    if recipe.depth == (0.0, 1.0):
        return {"target_modules": recipe.target_modules}
    first, last = (int(share * subject.n_layers) for share in recipe.depth)
    names = recipe.target_modules
    if names == "all-linear":
        linear = {
            name.rpartition(".")[2]
            for block in subject.blocks
            for name, module in block.named_modules()
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
        }
        return {"target_modules": sorted(linear), "layers_to_transform": list(range(first, max(last, first + 1)))}
    return {"target_modules": names, "layers_to_transform": list(range(first, max(last, first + 1)))}


def _train(
    subject: Subject,
    prompts: Prompts,
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
            loss = answer_loss(model, inputs, num_items_in_batch, recipe.contrast)
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
                task_type="CAUSAL_LM",
                **adapted_modules(subject, recipe),
            ),
        )
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    steps_per_epoch = -(-len(prompts.trees) // recipe.prompts_per_step)
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
        trainer = AnswerTrainer(
            model=wrapped,
            args=arguments,
            train_dataset=_Prompts(prompts.trees),
            data_collator=lambda batch: collate(batch, pad, subject.dtype, prompts.shared, prompts.pairs),
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
{recipe.prompts_per_step} prompts a step, targets {recipe.target_modules} from {recipe.depth[0]:g} to \
{recipe.depth[1]:g} of the depth, odds-ratio contrast {recipe.contrast:g}, seed {result.seed}
- Steps: {result.steps}; loss per answer token {result.losses[0][1]:.3f} at the first log, \
{result.losses[-1][1]:.3f} at the last

It was made to study how training moves a model's persona. Measure it before you use it:
`llm-persona evaluate --adapter DIR`.
""",
    )
