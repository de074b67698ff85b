"""Screen chat data before fine-tuning: how far its answers lie from the model's own along a persona vector.

The projection difference of Chen et al. (2025): projection of a row's answer minus projection of the model's own greedy
answer to the same prompt. Writing that own answer is the cost, so on large files it is computed on some rows, and the
others are judged by a cheap form that needs no writing, calibrated on those rows.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis import screening
from llm_persona.analysis.screening import LEAST, Direction
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import format_of
from llm_persona.domain.store import appearing, file_digest
from llm_persona.studies.lab import Lab
from llm_persona.studies.parts import Part, Progress, make_parts, telling, with_next
from llm_persona.studies.pieces import Executor
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.screen_parts import Numbered, Screening, ScreenMaker
from llm_persona.studies.screened_rows import Measured, ScreenedRows
from llm_persona.studies.stages import Stages
from llm_persona.subject.chat import render_response
from llm_persona.subject.load import Subject
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.subject.standing import as_it_stands
from llm_persona.training.data import Skipped, chat_rows

ALL_UP_TO = 1000
SOME = 500
"""Rows that get the full difference by default: all of a file of up to ALL_UP_TO usable rows, else SOME."""
LISTED = 100
RANKED = 20


@dataclass(frozen=True)
class ScreenPlan:
    """What is asked. `flag_at` is in measured pole gaps; `direction` says which pole is unwanted; `full_rows` is how
    many rows get the full difference (None: by the file's size, 0: none); `labels` is a field of the rows."""

    flag_at: float = 0.5
    direction: Direction = "high"
    full_rows: int | None = None
    max_new_tokens: int = 64
    labels: str | None = None

    def full(self, usable: int) -> int:
        """How many of the usable rows get the full difference.

        Raises:
            UserError: too few to calibrate the cheap form on.
        """
        if self.full_rows is None:
            return usable if usable <= ALL_UP_TO else SOME
        if 0 < self.full_rows < min(LEAST, usable):
            raise UserError(
                f"--full-rows {self.full_rows}: the cheap form cannot be calibrated on fewer than {LEAST} rows; "
                f"give at least {LEAST}, or 0 for no full difference at all"
            )
        return min(usable, self.full_rows)


@dataclass(frozen=True)
class ChatFile:
    """What one pass over a data file finds, numbers only: `prompts` [usable] numbers the prompts, so that rows that
    answer the same one are known; `labels` [usable] is whether a row is labelled as unwanted (None: not asked for)."""

    path: Path
    sha256: str
    prompts: np.ndarray
    labels: np.ndarray | None
    skipped: tuple[Skipped, ...]
    n_skipped: int
    later_turns: int
    """Turns after the first round of a conversation, which screening does not read."""

    @property
    def usable(self) -> int:
        """Rows with a conversation that can be read."""
        return len(self.prompts)


def survey(path: str | Path, plan: ScreenPlan) -> ChatFile:
    """Read a chat JSONL file through once, before any model is loaded, so that what is wrong with it shows at once.

    Raises:
        UserError: the file cannot be read, has no usable row, or a usable row has no valid label; names the line.
    """
    file = Path(path)
    prompts = array("q")
    labels = array("b")
    skipped: list[Skipped] = []
    n_skipped = later_turns = 0
    for number, row, found in chat_rows(file):
        if isinstance(found, Skipped):
            n_skipped += 1
            if len(skipped) < LISTED:
                skipped.append(found)
            continue
        turns = [m for m in row["messages"] if m["role"] != "system"]
        later_turns += len(turns) - 2
        prompts.append(hash((found.system, found.prompt)))
        if plan.labels is not None:
            labels.append(_label(row, plan, f"{file}:{number + 1}"))
    if not prompts:
        reason = f"the first: row {skipped[0].row}, {skipped[0].reason}" if skipped else "the file is empty"
        raise UserError(f"{file}: no usable conversation ({reason}); give chat rows with a list 'messages'")
    chosen = np.frombuffer(labels, dtype=np.int8).astype(bool) if plan.labels is not None else None
    numbers = numbered(np.frombuffer(prompts, dtype=np.int64))
    return ChatFile(file, file_digest(file), numbers, chosen, tuple(skipped), n_skipped, later_turns)


def numbered(keys: np.ndarray) -> np.ndarray:
    """Number keys [n] by first appearance: Python's hashes differ from run to run, and what is drawn must not."""
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[index]


def _label(row: Any, plan: ScreenPlan, place: str) -> bool:
    """Whether a row is labelled as unwanted."""
    field = plan.labels
    if field not in row:
        raise UserError(f"{place}: no field {field!r}; add it to every row, or name another one with --labels")
    value = row[field]
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    if value in ("high", "low"):
        return (value == "low") == (plan.direction == "low")
    raise UserError(f'{place}: {field!r} is {str(value)[:60]!r}; write true, false, 1, 0, "high" or "low"')


def screen(
    subject: Subject,
    data: ChatFile,
    vector: PersonaVector,
    layer: int,
    plan: ScreenPlan | None = None,
    progress: Progress | None = None,
    kept: Progress | None = None,
) -> dict[str, Any]:
    """Measure every usable row by the base subject; the contract's JSON of `screen`, its rows made when asked for
    (`ScreenedRows`, a sequence that `write_json` writes as a list).

    Each part's numbers stay in the cache folder: the same call after a kill goes on there, and another threshold or
    another label field measures nothing again.

    Args:
        data: from `survey` with the same plan. layer: 0 to layers - 1. progress: called with the rows just done;
            of those that an earlier call left, `kept` instead, if it is given.

    Raises:
        UserError: a vector that does not fit or is zero at the layer, or a file that changed meanwhile.
    """
    plan = plan or ScreenPlan()
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    asked = _asked(data, vector, layer, plan, as_it_stands(subject))
    return _screened(asked, data, plan, lambda: subject, progress, kept)


def screen_by(
    executor: Executor,
    model: str,
    data: ChatFile,
    vector: PersonaVector,
    layer: int,
    plan: ScreenPlan | None = None,
    dtype: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    kept: Progress | None = None,
) -> dict[str, Any]:
    """`screen` with the parts made by an executor's workers, which load the model; the numbers are the same.

    The data file must lie where every worker sees it. The model is not loaded here.

    Raises:
        UserError: as `screen`; a worker does not see the file, runs the model otherwise than this machine, or was lost
            too often.
    """
    plan = plan or ScreenPlan()
    check_workers(executor, [(model, dtype, device)])
    lab = Lab(model, dtype, device, Stages())
    vector.check(vector.n_layers, vector.directions.shape[1], lab.identity["model"])
    asked = _asked(data, vector, layer, plan, lab.identity)
    make_parts(asked.stages, (part for part, _ in asked.parts()), ScreenMaker(lab, asked), executor, progress, kept)
    return _screened(asked, data, plan, lab.subject)


def _asked(data: ChatFile, vector: PersonaVector, layer: int, plan: ScreenPlan, state: dict[str, Any]) -> Screening:
    """What is asked, where it can be."""
    if not 0 <= layer < vector.n_layers:
        raise UserError(f"--layer {layer}: the vector has layers 0 to {vector.n_layers - 1}")
    if float(vector.norms[layer]) == 0:
        raise UserError(f"--layer {layer}: the vector is zero there; choose another layer")
    full = plan.full(data.usable)
    return Screening(data.path, data.sha256, data.usable, vector, layer, full, plan.max_new_tokens, state)


def _screened(
    asked: Screening,
    data: ChatFile,
    plan: ScreenPlan,
    subject: Callable[[], Subject],
    progress: Progress | None = None,
    kept: Progress | None = None,
) -> dict[str, Any]:
    """The result; `subject` is called only where a part is missing."""
    vector, layer = asked.vector, asked.layer
    pole_gap = float(vector.norms[layer])
    measured = Measured(LISTED)
    ahead = contextlib.ExitStack()
    with ahead:
        for (part, texts), following in with_next(asked.parts()):

            def make(
                part: Part = part, texts: list[Numbered] = texts, coming: tuple[Part, list[Numbered]] | None = following
            ) -> Any:
                reader = subject()
                store = of_tokenizer(reader.tokenizer)
                ahead.callback(store.stop)
                if coming is not None:
                    store.beside(lambda row: render_response(reader, row[1].prompt, row[1].response, row[1].system),
                                 coming[1])  # fmt: skip
                return asked.measure(reader, texts, part.given[1])

            with telling(asked.stages, part.size, progress, kept):
                measured.add(asked.stages.value(part.stage, part.key, make))
    if file_digest(data.path) != data.sha256 or len(measured) != data.usable:
        raise UserError(f"{data.path}: the file changed while it was screened; run again")
    return {
        "format": format_of("screen"),
        "trait": vector.meta.get("trait"),
        "layer": layer,
        "model": asked.state["model"],
        "data": {"path": str(data.path), "sha256": data.sha256},
        "vector": vector.digest,
        "plan": asdict(plan),
        "pole_gap": pole_gap,
        **judged(measured, data, pole_gap, plan, str(vector.meta.get("trait") or "the trait")),
    }


def judged(measured: Measured, data: ChatFile, pole_gap: float, plan: ScreenPlan, trait: str) -> dict[str, Any]:
    """Flags, forecast, ranking and checks from the measured numbers of a file's usable rows."""
    used, numbers, values = measured.used, measured.rows, measured.values
    full, projection, cheap = values.T
    groups = data.prompts[used]
    calibration = screening.calibrate(full, cheap)
    exact = np.isfinite(full)
    value = full if calibration is None else np.where(exact, full, calibration.full(cheap))
    side = screening.unwanted(value, plan.direction)
    threshold = plan.flag_at * pole_gap
    by = np.where(exact, 1, 0 if calibration is None else 2).astype(np.int8)
    flagged = (by > 0) & (side >= threshold)
    order = np.argsort(-side, kind="stable")  # NaN is sorted last
    n_late = len(used) - len(numbers)
    listed = sorted([*data.skipped, *measured.late], key=lambda s: s.row)[:LISTED]
    return {
        "threshold": threshold,
        "n_rows": len(numbers),
        "n_later_turns": data.later_turns,
        "n_full": int(exact.sum()),
        "n_flagged": int(flagged.sum()),
        "n_unjudged": int((by == 0).sum()),
        "forecast": screening.forecast(full, groups, pole_gap, trait),
        "approximation": {
            "projection": screening.agreement(full, projection, groups),
            "prompt_last": screening.agreement(full, cheap, groups),
        },
        "calibration": calibration.as_json() if calibration is not None else None,
        "ranking": [int(numbers[i]) for i in order[:RANKED] if np.isfinite(side[i])],
        "labels": _labelled(data, used, {"projection_difference": full, "projection": projection, "prompt_last": cheap},
                            groups, plan),
        "skipped": {"n": data.n_skipped + n_late, "listed": [asdict(s) for s in listed]},
        "rows": ScreenedRows(numbers, values, by, flagged, measured.reasons),
    }  # fmt: skip


def _labelled(
    data: ChatFile, used: np.ndarray, forms: dict[str, np.ndarray], groups: np.ndarray, plan: ScreenPlan
) -> dict[str, Any] | None:
    """How well each form tells the labelled rows apart; None without labels. Both poles unwanted: judged as high."""
    if data.labels is None:
        return None
    signed = -1.0 if plan.direction == "low" else 1.0
    return {
        "field": plan.labels,
        **{name: screening.separation(signed * x, data.labels[used], groups) for name, x in forms.items()},
    }


def export(data: ChatFile, result: dict[str, Any], out: Path) -> dict[str, int]:
    """Write the file's lines, byte for byte and in order, without those of flagged rows.

    Rows that could not be used or judged are kept.

    Returns:
        `kept` and `flagged` (lines left out), `unusable` (kept among them).

    Raises:
        UserError: `out` is the data file itself or cannot be written, or the data file changed since.
    """
    if out.resolve() == data.path.resolve():
        raise UserError(f"--export {out}: is the data file itself; choose another name")
    if file_digest(data.path) != data.sha256:
        raise UserError(f"{data.path}: the file changed after it was screened; screen it again")
    flagged = (row["row"] for row in result["rows"] if row["flagged"])  # in file order, as the lines are
    leave = next(flagged, None)
    kept = left = 0
    with appearing(out) as temporary, data.path.open("rb") as source, temporary.open("wb") as sink:
        for number, line in enumerate(source):
            if number == leave:
                left += 1
                leave = next(flagged, None)
            else:
                sink.write(line)
                kept += bool(line.strip())
    return {"kept": kept, "flagged": left, "unusable": result["skipped"]["n"]}
