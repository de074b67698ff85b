"""The lines of a prevention's table and the sentence that follows from them.

Seeds are the units: each method's adapter of a seed is set against the plain adapter of that seed. Intervals are 95% t
intervals over seeds (Fieller's for ratios); they are conditional on the test items and on the held-out rows, which
all methods share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_persona.analysis.fieller import one_minus, ratio_of_means
from llm_persona.analysis.shift import spread

LEARNT_WITHIN = 1.1
LEARNT_SHARE = 0.8
"""A task counts as learnt where its held-out loss is at most LEARNT_WITHIN times the plain training's, and at least
LEARNT_SHARE of the plain training's gain over the base is kept (else a task that moves the loss little would be
learnt by not training at all)."""
HALF = 0.5


def method_row(
    method: str, runs: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]], base: dict[str, Any], pole: str
) -> dict[str, Any]:
    """One line of the table. `prevented`: 1 is no shift at all, 0 the plain training's, below 0 worse than it.

    `halved` and `task_learnt` are read at the point estimates; `halved_shown` and `task_learnt_shown` say whether the
    whole interval over seeds lies on that side (False where there is no interval).
    """
    sign = 1.0 if pole == "high" else -1.0
    shifts, plain_shifts = ([_points(r, sign) for r in found] for found in (runs, plain))
    losses, plain_losses = ([r["loss"] for r in found] for found in (runs, plain))
    reference = method == "plain"
    prevented = one_minus(_ratio(shifts, plain_shifts, reference))
    ratio = _ratio(losses, plain_losses, reference)
    gained, plain_gained = ([base["loss"] - x for x in part] for part in (losses, plain_losses))
    share = _ratio(gained, plain_gained, reference)
    costs = [r["perplexity"] / base["perplexity"] for r in runs if r["perplexity"] is not None and base["perplexity"]]
    row: dict[str, Any] = {
        "method": method,
        "answers": [r.get("answers") for r in runs],
        "shift": _spread(shifts),
        "shifts": [{"seed": r.get("seed", k), **r["shift"]} for k, r in enumerate(runs)],
        "prevented": prevented["ratio"],
        "prevented_ci": prevented["ci"],
        "written_shift": _spread([sign * r["written_shift"]["mean"] for r in runs if r["written_shift"]["n"]]),
        "task_loss": _spread(losses),
        "task_loss_ratio": ratio["ratio"],
        "task_loss_ratio_ci": ratio["ci"],
        "task_learnt_share": share["ratio"],
        "task_learnt_share_ci": share["ci"],
        "perplexity_ratio": _spread(costs),
    }
    judged = _judged(row)
    if reference:  # its own ratio shows nothing: it learnt where its loss lies below the base's over the whole interval
        top = row["task_loss"]["ci"][1] if row["task_loss"] else None
        judged["task_learnt_shown"] = top is not None and top < base["loss"]
    return row | judged


def _ratio(values: Sequence[float | None], reference: Sequence[float | None], by_definition: bool) -> dict[str, Any]:
    """Of the seeds that have both, where the reference moved at all in the direction that counts; of the plain
    training to itself it is 1 by definition, without an interval."""
    both = [(a, b) for a, b in zip(values, reference, strict=True) if a is not None and b is not None]
    found = ratio_of_means([a for a, _ in both], [b for _, b in both])
    if not both or sum(b for _, b in both) <= 0:
        return {**found, "ratio": None, "ci": [None, None]}
    return {**found, "ci": [None, None]} if by_definition else found


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """What a line's figures allow to say, at the points and over the intervals."""

    def learnt(ratio: float | None, share: float | None) -> bool:
        return ratio is not None and ratio <= LEARNT_WITHIN and share is not None and share >= LEARNT_SHARE

    def halved(prevented: float | None) -> bool:
        return prevented is not None and prevented >= HALF

    return {
        "halved": halved(row["prevented"]),
        "halved_shown": halved(row["prevented_ci"][0]),
        "task_learnt": learnt(row["task_loss_ratio"], row["task_learnt_share"]),
        "task_learnt_shown": learnt(row["task_loss_ratio_ci"][1], row["task_learnt_share_ci"][0]),
    }


def _points(run: dict[str, Any], sign: float) -> float | None:
    value = run["shift"]["preference_shift"]
    return None if value is None else 100 * sign * float(value)


def _spread(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = [v for v in values if v is not None]
    return spread(known) if known else None


def finding(result: dict[str, Any]) -> str:
    """What the table shows, in a few sentences that follow from it."""
    plain = result["methods"]["plain"]
    shift = plain["shift"]
    towards = f"{result['trait']} {result['pole']}"
    if shift is None:
        return "Nothing was scored under plain training: there is nothing to compare with."
    seeds = f"{shift['n_seeds']} seed{'' if shift['n_seeds'] == 1 else 's'}"
    over = f"({_span(shift['ci'], 1)} over {seeds})"
    if shift["mean"] <= 0:
        return (
            f"Plain training moved {result['trait']} by {shift['mean']:+.1f} points {over} toward its {result['pole']} "
            "pole, so away from it or not at all: there is nothing to prevent, and shares prevented mean nothing here."
        )
    start = f"Plain training moved {towards} by {shift['mean']:.1f} points {over}. "
    few = "" if shift["n_seeds"] >= 3 else " Fewer than three seeds: no interval, so indicative."
    if not plain["task_learnt"]:
        return start + "It did not learn the task itself (no gain in held-out loss), so no method can be judged." + few
    unsure = "" if shift["ci"][0] is None or shift["ci"][0] > 0 else (
        "That interval reaches zero, so no share of it is shown to be prevented. "
    )  # fmt: skip
    learnt = "with the task learnt (loss within 10% of plain, at least 80% of its gain)"
    others = {name: row for name, row in result["methods"].items() if name != "plain"}
    halved = {name: row for name, row in others.items() if row["halved"] and row["task_learnt"]}
    if not halved:
        return start + unsure + f"No method halved that {learnt}." + few
    shown = {name: row for name, row in halved.items() if row["halved_shown"] and row["task_learnt_shown"]}
    said = []
    if shown:
        said.append(f"Halved or better {learnt}, over the whole interval: {_listed(shown)}.")
    rest = {name: row for name, row in halved.items() if name not in shown}
    if rest:
        said.append(f"Halved {learnt} in the mean, which the interval does not show: {_listed(rest)}.")
    return start + unsure + " ".join(said) + few


def _listed(rows: dict[str, dict[str, Any]]) -> str:
    return "; ".join(
        f"{name} ({100 * row['prevented']:.0f}% prevented, {_span(row['prevented_ci'], 0, 100)}; task loss "
        f"{row['task_loss_ratio']:.2f} of plain, {_span(row['task_loss_ratio_ci'], 2)}; "
        f"{100 * row['task_learnt_share']:.0f}% of its gain, {_span(row['task_learnt_share_ci'], 0, 100)})"
        for name, row in rows.items()
    )


def _span(ci: Sequence[float | None], digits: int, factor: float = 1.0) -> str:
    low, high = ci
    return "no interval" if low is None or high is None else f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"
