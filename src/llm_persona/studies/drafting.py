"""Draft a trait through a model that writes: part by part, each checked, repaired within bounds, or rejected.

Nothing that was paid for is lost: replies are kept by the writer, and what was accepted stands in a draft file after
every step. What comes out meets the standard of `traits check` and is marked as drafted, unreviewed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from llm_persona.analysis.item_faults import culprits, item_faults
from llm_persona.analysis.trait_check import MINIMUM, Check, check_trait
from llm_persona.domain.drafts import (
    PAIRS,
    QUESTIONS,
    Core,
    Place,
    Unusable,
    assembled,
    core_of,
    fill,
    items_of,
    json_of,
    pairs_of,
    places,
    questions_of,
)
from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.items import OPTIONS, Item, parse_item
from llm_persona.domain.store import write_text
from llm_persona.domain.traits import Trait, explain
from llm_persona.instruments.judging.writing import Writer, WriteRequest
from llm_persona.subject.remote.requests import Failure, Reply

BATCH = 8
"""Items a request: more in one reply grow careless, fewer cost more calls."""
TOKENS = {"core": 1600, "pairs": 2000, "questions": 2000, "items": 4000}
"""Greatest length of a reply."""
WORST = 12
"""Items sent back at once where a balance over all of them fails."""
SHOWN_REPLY = 12_000
"""Characters of a faulty reply that go back with its faults."""
CORE_SIZE = 4000
"""Characters of definition and facets in later requests, for the estimate."""
FEWEST = 32
"""Items below which a split does not hold every facet."""


@dataclass(frozen=True)
class DraftPlan:
    """What is drafted: a name, a description in the user's words, the number of items, rounds of repair."""

    name: str
    description: str = ""
    items: int = sum(MINIMUM.values())
    rounds: int = 2

    @property
    def batches(self) -> int:
        """Requests for items in the first round."""
        return -(-self.items // BATCH)

    @property
    def most_calls(self) -> int:
        """No draft asks more often than this, failed calls tried again left out."""
        return (1 + self.rounds) * (3 + self.batches)

    def sizes(self) -> list[tuple[int, int]]:
        """(characters sent, greatest number of new tokens) of each call if nothing needs repair."""
        later = [("pairs", 1), ("questions", 1), ("items", self.batches)]
        first = [(len(fill("core", description=self.description)), TOKENS["core"])]
        return first + [(len(fill(s)) + CORE_SIZE, TOKENS[s]) for s, n in later for _ in range(n)]


@dataclass
class _State:
    """What is accepted so far."""

    core: Core | None = None
    pairs: list[dict[str, str]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    items: dict[int, dict[str, str]] = field(default_factory=dict)


def draft_trait(
    writer: Writer, plan: DraftPlan, path: Path, say: Callable[[str], None] | None = None
) -> tuple[Trait, list[Check]]:
    """A whole trait, written to `path`, with its checks; `say` hears of each step.

    The accepted parts stand in `draft_path(path)` meanwhile, and stay there if the draft is rejected. The same call
    again asks only for what the writer has not kept.

    Raises:
        UserError: the draft is rejected (which step, what was unusable), a call failed for good, or `--max-calls` is
            reached; what is there is kept.
    """
    work = _Draft(writer, plan, path, say or (lambda line: None))
    work.core()
    work.fill_list("pairs", len(PAIRS))
    work.fill_list("questions", len(QUESTIONS))
    trait, checks = work.items()
    head = (
        f"# Drafted by {work.author} and read by nobody yet. Read every item, correct what is wrong, run\n"
        f"# `llm-persona traits check {path.name}`, and put your name into `status`.\n"
    )
    write_text(path, head + _yaml(work.data()))
    draft_path(path).unlink(missing_ok=True)
    return trait, checks


def draft_path(path: Path) -> Path:
    """Where the accepted parts of an unfinished draft stand: NAME.draft.yaml beside NAME.yaml."""
    return path.with_name(f"{path.stem}.draft.yaml")


def _yaml(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


class _Draft:
    def __init__(self, writer: Writer, plan: DraftPlan, path: Path, say: Callable[[str], None]) -> None:
        self.writer, self.plan, self.path, self.say = writer, plan, path, say
        self.author = f"{writer.identity.get('kind')}:{writer.identity.get('model')}"
        self.state = _State()
        self.places: list[Place] = []

    # steps

    def core(self) -> None:
        """The definition, in one request and its repairs."""
        said = self.plan.description.strip()
        prompt = fill("core", name=self.plan.name, description=f"The user says of it: {said}" if said else "")
        fault: Unusable | None = None
        reply = ""
        for _ in range(1 + self.plan.rounds):
            asked = prompt if fault is None else _repair(prompt, [str(fault)], reply)
            found = self._ask("core", [asked])[0]
            reply = found.text
            try:
                self.state.core = core_of(json_of(reply, _cut(found)))
                break
            except Unusable as error:
                if error.no_json and fault is not None and fault.no_json:
                    self._reject("core", [f"twice in a row, {error}"])
                fault = error
            self.say(f"core: goes back ({one_line(str(fault), 120)})")
        if self.state.core is None:
            self._reject("core", [str(fault)])
        self.places = places(self.plan.items, [facet.name for facet in self.state.core.facets])
        self._save()
        self.say(f"core: {self.state.core.title}, {len(self.state.core.facets)} facets")

    def fill_list(self, step: str, count: int) -> None:
        """Pairs or questions: what is usable is kept, only the rest is asked for again."""
        kept: list[Any] = self.state.pairs if step == "pairs" else self.state.questions
        faults: list[str] = []
        for _ in range(1 + self.plan.rounds):
            found = self._ask(step, [self._list_prompt(step, count - len(kept), faults)])[0]
            try:
                data = json_of(found.text, _cut(found))
                new, faults = pairs_of(data) if step == "pairs" else questions_of(data)
            except Unusable as error:
                new, faults = [], [str(error)]
            for entry in new:
                if any(_same(entry, other) for other in kept):
                    faults.append(f"stands there already: {one_line(str(entry), 80)}")
                elif len(kept) < count:
                    kept.append(entry)
            self._save()
            self.say(f"{step}: {len(kept)} of {count} usable")
            if len(kept) == count:
                return
        self._reject(step, [f"{len(kept)} of {count} are usable", *faults])

    def items(self) -> tuple[Trait, list[Check]]:
        """All items in batches; places with faults are asked for again, then those that upset a balance."""
        replies: dict[int, dict[str, str]] = {}
        faults: dict[int, list[str]] = {place.number: [] for place in self.places}
        said: list[str] = []
        rounds = 0
        while faults and rounds <= self.plan.rounds:
            rounds += 1
            faults = self._round(replies, faults)
            self.say(f"items: {len(self.state.items)} of {len(self.places)} usable")
            said = [f"place {number}: {one}" for number, every in sorted(faults.items()) for one in every]
            if faults:
                continue
            trait, checks = self._trait()
            failing = [check for check in checks if not check.ok and not self._by_choice(check)]
            if not failing:
                return trait, checks
            said = [f"{check.name}: {check.measured} (needed: {check.standard})" for check in failing]
            self.say(f"items: {one_line('; '.join(said), 200)}")
            faults = self._balance_faults(trait, failing)
        return self._reject("items", said)

    def _round(self, replies: dict[int, dict[str, str]], faults: dict[int, list[str]]) -> dict[int, list[str]]:
        """Ask for the places with faults; `replies` takes what comes. Returns what is at fault then."""
        wanted = [place for place in self.places if place.number in faults]
        batches = [wanted[k : k + BATCH] for k in range(0, len(wanted), BATCH)]
        prompts = [self._items_prompt(batch, faults, replies) for batch in batches]
        missing: dict[int, list[str]] = {}
        for batch, found in zip(batches, self._ask("items", prompts), strict=True):
            try:
                new, empty = items_of(json_of(found.text, _cut(found)), batch)
            except Unusable as error:
                new, empty = {}, {place.number: [str(error)] for place in batch}
            replies |= new
            missing |= empty
        core = self.state.core
        assert core is not None
        items = {n: self._parsed(n, texts) for n, texts in sorted(replies.items()) if n not in missing}
        wrong = {**missing, **item_faults(self.plan.name, core.definition, items)}
        self.state.items = {n: texts for n, texts in sorted(replies.items()) if n not in wrong}
        self._save()
        return wrong

    # requests

    def _about(self) -> str:
        core = self.state.core
        assert core is not None
        facets = "\n".join(f"- {facet.name}. High: {facet.high} Low: {facet.low}" for facet in core.facets)
        poles = core.descriptions
        return fill(
            "about", title=core.title, definition=core.definition, high=poles.high, low=poles.low, facets=facets
        )

    def _list_prompt(self, step: str, count: int, faults: Sequence[str]) -> str:
        kept = self.state.questions if step == "questions" else []
        avoid = "\nThese are there already; write different ones:\n" + "\n".join(f"- {q}" for q in kept) if kept else ""
        prompt = fill(step, about=self._about(), count=str(count), avoid=avoid)
        if not faults:
            return prompt
        return f"{prompt}\n\nFaults of an earlier reply, to be avoided:\n" + "\n".join(f"- {f}" for f in faults[:20])

    def _items_prompt(
        self, batch: Sequence[Place], faults: dict[int, list[str]], replies: dict[int, dict[str, str]]
    ) -> str:
        core = self.state.core
        assert core is not None
        lines = []
        for place in batch:
            lines.append(f"- place {place.number}: facet {place.facet!r}, domain {place.domain!r}")
            lines += [f"    fault of an earlier item here, to be mended: {said}" for said in faults[place.number]]
            if faults[place.number] and place.number in replies:
                old = replies[place.number]
                lines.append("    the earlier item: " + " | ".join(old[name] for name in ("situation", *OPTIONS)))
        forbidden = ", ".join(sorted(_long_words(f"{self.plan.name} {core.definition}")))
        return fill("items", about=self._about(), places="\n".join(lines), forbidden=forbidden)

    def _ask(self, step: str, prompts: Sequence[str]) -> list[Reply]:
        requests = [WriteRequest(step, prompt, TOKENS[step]) for prompt in prompts]
        found = self.writer.write(requests)
        failed = [reply.reason for reply in found if isinstance(reply, Failure)]
        if failed:
            self._save()
            raise UserError(
                f"{self.plan.name}: {len(failed)} of {len(found)} calls for {step} gave nothing ({failed[0]}); what "
                "was answered is kept, the same command goes on"
            )
        return [reply for reply in found if isinstance(reply, Reply)]

    # checks

    def _parsed(self, number: int, texts: dict[str, str]) -> Item:
        place = self.places[number - 1]
        record = {**texts, "facet": place.facet, "domain": place.domain, "split": place.split}
        return parse_item(record, f"place {number}", f"{self.plan.name}-{number:03d}")

    def _trait(self) -> tuple[Trait, list[Check]]:
        try:
            trait = Trait.model_validate(self.data())
        except ValidationError as error:
            self._reject("the whole", [explain(error)])
        return trait, check_trait(trait)

    def _by_choice(self, check: Check) -> bool:
        """Fewer items than the standard because the user asked for fewer."""
        return check.name == "items per split" and self.plan.items < sum(MINIMUM.values())

    def _balance_faults(self, trait: Trait, failing: Sequence[Check]) -> dict[int, list[str]]:
        """Items that do most to upset a balance over all of them, each with what is to be changed."""
        found: dict[int, list[str]] = {}
        for check in failing:
            for number in culprits(check.name, trait.bank, WORST):
                found.setdefault(number, []).append(f"over all items, {check.name} is {check.measured}; needed: "
                                                    f"{check.standard}. Rewrite the responses to mend it")  # fmt: skip
        return found

    # files

    def data(self) -> dict[str, Any]:
        """The accepted parts as a trait file's mapping."""
        core = self.state.core
        if core is None:
            return {"name": self.plan.name}
        items = [(place, self.state.items[place.number]) for place in self.places if place.number in self.state.items]
        return assembled(self.plan.name, self.author, core, self.state.pairs, self.state.questions, items)

    def _save(self, faults: Sequence[str] = ()) -> None:
        head = "# Accepted parts of an unfinished draft; the same command goes on. It is no whole trait.\n"
        data = {**self.data(), "status": "unfinished draft"}
        write_text(draft_path(self.path), head + _yaml({**data, "faults": list(faults)} if faults else data))

    def _reject(self, step: str, faults: Sequence[str]) -> NoReturn:
        self._save(faults)
        more = f" (and {len(faults) - 3} more, in the draft file)" if len(faults) > 3 else ""
        raise UserError(
            f"{self.plan.name}: the draft by {self.author} was rejected at {step!r} after {self.plan.rounds} rounds of "
            f"repair: {one_line('; '.join(faults[:3]), 400)}{more}; what was accepted is in {draft_path(self.path)}; "
            "try another --with, more --rounds or another --seed"
        )


def _repair(prompt: str, faults: Sequence[str], reply: str) -> str:
    listed = "\n".join(f"- {fault}" for fault in faults)
    return fill("repair", prompt=prompt, faults=listed, reply=reply[:SHOWN_REPLY])


def _cut(reply: Reply) -> bool:
    return reply.finish in ("length", "max_tokens")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return one.lower().strip(" ?.") == str(other).lower().strip(" ?.")
    return bool(one["high"].lower() == other["high"].lower() or one["low"].lower() == other["low"].lower())


def _long_words(text: str) -> set[str]:
    return {w for w in (word.strip(".,;:()'\"-").lower() for word in text.split()) if len(w) >= 6 and w.isalpha()}
