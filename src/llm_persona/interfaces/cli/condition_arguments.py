"""In what state the subject is, said the same way by every command: the options, and the condition they make."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_persona.interfaces.cli.options import chain
from llm_persona.interfaces.cli.vector_settings import CHOICES, parse_vector, settle

if TYPE_CHECKING:
    from llm_persona.domain.condition import Condition
    from llm_persona.domain.items import Items

level_option = click.option(
    "--level",
    default="pair",
    show_default=True,
    type=click.Choice(["pair", "name", "description", "facets"]),
    help="How much --instruct says: the held-out pair, or the trait's name, description, or facets too.",
)
vector_options = chain(
    click.option(
        "--vector",
        "vectors",
        multiple=True,
        help="Steer with a vector file (repeatable); its own settings may follow: FILE:layer=12:dose=0.2.",
    ),
    click.option("--layer", "layers", multiple=True, help="Its layer, or auto (the recommended one)."),
    click.option("--coefficient", "coefficients", multiple=True, type=float, help="Strength in measured pole gaps."),
    click.option("--dose", "doses", multiple=True, type=float, help="Strength as a share of the layer's norm."),
    click.option(
        "--positions",
        type=click.Choice(CHOICES["positions"]),
        default="all",
        show_default=True,
        help="Which tokens are steered.",
    ),
    click.option(
        "--operator",
        type=click.Choice(CHOICES["operator"]),
        default="add",
        show_default=True,
        help="Add the vector, take its direction out, or keep the projection on it within bounds.",
    ),
    click.option("--floor", type=float, help="--operator cap: lowest projection."),
    click.option("--ceiling", type=float, help="--operator cap: highest projection."),
)
condition_options = chain(
    click.option("--instruct", type=click.Choice(["high", "low", "neutral"]), help="Under the trait's instruction."),
    level_option,
    click.option("--system", help="Under this system prompt."),
    click.option("--adapter", help="With a LoRA adapter (PEFT folder)."),
    vector_options,
)
conditions_options = chain(
    click.option("--instruct", "instructs", multiple=True, type=click.Choice(["none", "high", "low", "neutral"]),
                 help="Under the trait's instruction (repeatable: each is a condition)."),
    level_option,
    click.option("--system", help="Under this system prompt."),
    click.option("--adapter", "adapters", multiple=True, help="With a LoRA adapter (repeatable: each a condition; "
                 "none is the model without one)."),
    vector_options,
)  # fmt: skip


@dataclass(frozen=True)
class ConditionArguments:
    """The raw values of `condition_options`."""

    instruct: str | None
    level: Any
    system: str | None
    adapter: str | None
    vectors: tuple[str, ...]
    layers: tuple[str, ...]
    coefficients: tuple[float, ...]
    doses: tuple[float, ...]
    positions: Any
    operator: Any
    floor: float | None
    ceiling: float | None

    @property
    def needs_trait(self) -> bool:
        """`--instruct` speaks of a trait."""
        return self.instruct is not None

    def condition(self, trait: Any = None) -> Condition:
        """The condition; vectors are read here.

        Raises:
            UserError: options that do not fit together.
        """
        from llm_persona.domain.condition import Condition
        from llm_persona.domain.errors import UserError

        if self.instruct is not None and self.system is not None:
            raise UserError("--instruct and --system both set the system turn; give one of them")
        if self.instruct is not None and trait is None:
            raise UserError("--instruct needs a trait to speak of; add --trait")
        settled = settle(
            self.vectors, self.layers, (self.coefficients, self.doses), self.positions, self.operator,
            (self.floor, self.ceiling),
        )  # fmt: skip
        if self.adapter is not None and not (Path(self.adapter) / "adapter_config.json").is_file():
            raise UserError(f"--adapter {self.adapter}: no adapter_config.json there; give a PEFT folder")
        steers = [steer for one in settled for steer in one.steers()]
        system = trait.instruction(self.instruct, self.level) if self.instruct is not None else self.system
        level = f" ({self.level})" if self.level != "pair" and self.instruct != "neutral" else ""
        parts = [f"instructed {self.instruct}{level}" if self.instruct else "system" if self.system else ""]
        parts += [f"adapter {Path(self.adapter).name}" if self.adapter else "", *[s.label for s in steers]]
        name = " + ".join(p for p in parts if p) or "base"
        return Condition(name, system, self.adapter, tuple(steers))

    def made_from(self) -> dict[str, list[str]]:
        """Artefact to the ids of the items it was made from."""
        from llm_persona.analysis.vectors import PersonaVector
        from llm_persona.domain.adapters import adapter_record
        from llm_persona.domain.errors import UserError

        paths = [parse_vector(text).path for text in self.vectors]
        found = {path: [str(i) for i in PersonaVector.load(path).meta.get("items", [])] for path in paths}
        if self.adapter and (Path(self.adapter) / "llm-persona.json").is_file():
            recipe = Path(self.adapter) / "llm-persona.json"
            record = adapter_record(Path(self.adapter))
            if record is None:
                raise UserError(
                    f"{recipe}: is not as it was written, so what the adapter was made from is not known; tune it "
                    "again, or take the file away if it is not ours"
                )
            try:
                found[self.adapter] = [str(i) for i in record["data"]["items"]]
            except (LookupError, TypeError) as error:
                raise UserError(
                    f"{recipe}: does not say what the adapter was made from (data.items); tune it again, or take the "
                    "file away if it is not ours"
                ) from error
        return found


def condition_from(arguments: dict[str, Any]) -> ConditionArguments:
    """Take the condition's options out of a command's keyword arguments."""
    return ConditionArguments(**{field.name: arguments.pop(field.name) for field in fields(ConditionArguments)})


def conditions_from(arguments: dict[str, Any]) -> list[ConditionArguments]:
    """The same where `--instruct` and `--adapter` may be given several times: every combination, in that order."""
    instructs = [None if i == "none" else i for i in arguments.pop("instructs")] or [None]
    adapters = [None if a == "none" else a for a in arguments.pop("adapters")] or [None]
    return [
        condition_from({**arguments, "instruct": instruct, "adapter": adapter})
        for adapter in dict.fromkeys(adapters)
        for instruct in dict.fromkeys(instructs)
    ]


def refuse_overlap(condition: ConditionArguments, items: Items, allowed: bool) -> dict[str, int]:
    """Refuse to judge an artefact on the items it was made from; where it is allowed, artefact to how many they are.

    Raises:
        Overlap: names the artefact and how many items it shares.
    """
    from llm_persona.analysis.vectors import overlap
    from llm_persona.domain.errors import Overlap

    found = {}
    for artefact, ids in condition.made_from().items():
        shared = overlap(ids, items.ids)
        if shared and not allowed:
            raise Overlap(
                f"{artefact}: made from {shared} of these {len(items)} items; evaluate on --split test or other items "
                "(or --allow-overlap, and the numbers are in-sample)"
            )
        if shared:
            found[artefact] = shared
    return found
