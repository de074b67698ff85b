"""One LoRA training with PEFT and the transformers trainer, from a checkpoint where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import read_json
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Tree
from llm_persona.subject.steer import steered_by
from llm_persona.training.adapted import adapted, quiet
from llm_persona.training.along import MEASURED, Along, Watch
from llm_persona.training.data import Prompts
from llm_persona.training.held_out import loss_on
from llm_persona.training.loss import answer_loss, collate
from llm_persona.training.order import ByLength
from llm_persona.training.processes import launched
from llm_persona.training.recipe import Recipe

SAVE_EVERY = 50
"""Steps between checkpoints at most; a short training has three."""


@dataclass(frozen=True)
class Course:
    """How a training went. `main` tells whether this process is the one that writes; `wait` meets the others."""

    steps: int
    losses: list[tuple[int, float]]
    along: list[dict[str, Any]]
    kept_step: int
    made: Path
    main: bool
    wait: Callable[[], None]


class _Rows(torch.utils.data.Dataset):
    def __init__(self, trees: list[list[Tree]]) -> None:
        self.trees = trees

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, index: int) -> list[Tree]:
        return self.trees[index]


def train(
    subject: Subject,
    prompts: Prompts,
    held: Prompts | None,
    recipe: Recipe,
    seed: int,
    work: Path,
    under: Condition,
    watch: Watch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Course:
    """Train, and leave the adapter in `work/made`; the subject is as before afterwards.

    Steering by `under` acts in the forwards of the training only: what is measured along the way is the model
    without it. Under `accelerate launch` the processes share each step's prompts.
    """
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    lengths = [sum(t.length for t in trees) for trees in prompts.trees]
    order = ByLength(lengths, recipe.prompts_per_step, seed) if recipe.by_length else None

    class AnswerTrainer(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            # gradients are averaged over the processes, the items are counted over all of them
            items = num_items_in_batch / self.args.world_size if num_items_in_batch is not None else None
            with ExitStack() as stack:
                for steer in under.steers:
                    stack.enter_context(steered_by(subject, steer))
                loss = answer_loss(model, inputs, items, recipe.contrast)
            return (loss, None) if return_outputs else loss

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return order if order is not None else super()._get_train_sampler(train_dataset)

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            along.resume(state.global_step)
            if state.global_step == 0 and along.at(0) is not None and recipe.patience is not None:
                keep_best()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if order is not None:  # after a resume within an epoch nobody else tells it
                order.set_epoch(int(state.epoch or 0))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if progress is not None:
                progress(state.global_step, state.max_steps)
            row = along.at(state.global_step, last=state.global_step == state.max_steps)
            if row is None or recipe.patience is None:
                return
            if along.since_best() == 0:
                keep_best()
            if agreed(along.since_best() >= recipe.patience, arguments):
                control.should_training_stop = True

    def keep_best() -> None:
        if arguments.process_index == 0:
            with quiet():
                wrapped.save_pretrained(best)

    best = work / "best"
    with adapted(subject, recipe, seed) as wrapped:
        arguments = _arguments(subject, recipe, len(prompts.trees), seed, work)
        total = int(arguments.max_steps)
        along = Along(
            subject,
            work / (f"along-{arguments.process_index}.json" if arguments.process_index else "along.json"),
            watch,
            (lambda: loss_on(subject, held)) if held is not None else None,
            max(1, total // MEASURED),
        )
        pad = subject.tokenizer.pad_token_id
        trainer = AnswerTrainer(
            model=wrapped,
            args=arguments,
            train_dataset=_Rows(prompts.trees),
            data_collator=lambda batch: collate(batch, pad, subject.dtype, prompts.shared, prompts.pairs),
            callbacks=[Report()],
        )
        trainer.remove_callback(PrinterCallback)
        with quiet():
            trainer.train(resume_from_checkpoint=whole_checkpoint(work / "checkpoints"))
        history = [(int(e["step"]), float(e["loss"])) for e in trainer.state.log_history if "loss" in e]
        made, kept = work / "made", trainer.state.global_step
        if recipe.patience is not None and along.best is not None:
            kept = along.best[0]
        wait = arguments.distributed_state.wait_for_everyone if arguments.world_size > 1 else _nothing
        if arguments.process_index == 0:
            shutil.rmtree(made, ignore_errors=True)
            if recipe.patience is not None and along.best is not None and best.is_dir():
                shutil.copytree(best, made)
            else:
                with quiet():
                    wrapped.save_pretrained(made)
        return Course(trainer.state.global_step, history, along.rows, kept, made, arguments.process_index == 0, wait)


def agreed(wanted: bool, arguments: Any) -> bool:
    """What the first of several processes wants: were each to decide, one could stop while another waits for it."""
    if arguments.world_size == 1:
        return wanted
    flag = torch.tensor(int(wanted), device=arguments.device)
    torch.distributed.broadcast(flag, 0)
    return bool(flag)


def _nothing() -> None:
    pass


def _arguments(subject: Subject, recipe: Recipe, n_prompts: int, seed: int, work: Path) -> Any:
    from transformers import TrainingArguments

    steps_per_epoch = -(-n_prompts // recipe.prompts_per_step)
    total = steps_per_epoch * recipe.epochs
    if recipe.max_steps is not None:
        total = min(total, recipe.max_steps)
    arguments = TrainingArguments(
        output_dir=str(work / "checkpoints"),
        max_steps=total,
        per_device_train_batch_size=recipe.prompts_per_step,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, round(recipe.warmup_share * total)),
        weight_decay=recipe.weight_decay,
        logging_steps=max(1, min(steps_per_epoch, total) // (2 if recipe.patience is None else 2 * MEASURED)),
        save_strategy="steps",
        save_steps=min(SAVE_EVERY, -(-total // 3)),
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=subject.device.type == "cpu",
        ddp_backend="gloo" if subject.device.type == "cpu" and launched() > 1 else None,
        seed=seed,
        data_seed=seed,
        log_level="error",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device: DataParallel would hide the output layer
    processes = arguments.world_size
    if recipe.prompts_per_step % processes:
        raise UserError(
            f"{processes} processes cannot share {recipe.prompts_per_step} prompts a step evenly; launch a divisor"
        )
    arguments.per_device_train_batch_size = recipe.prompts_per_step // processes
    return arguments


def whole_checkpoint(folder: Path) -> str | None:
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
