"""Options that several commands share, so that the same thing is said the same way everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_persona.interfaces.cli.quiet import json_alone, real_stdout
from llm_persona.interfaces.cli.vector_settings import CHOICES, parse_vector, settle

if TYPE_CHECKING:
    from llm_persona.domain.condition import Condition
    from llm_persona.domain.items import Items
    from llm_persona.subject.load import Subject

Decorator = Callable[[Any], Any]


def chain(*decorators: Decorator) -> Decorator:
    """Apply decorators in reading order."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def _subject_options(several: bool) -> Decorator:
    text = "Hub id, folder, .gguf, smollm2-135m, or openai:NAME behind an API"
    model = click.option("--model", default="smollm2-135m", show_default=True, help=f"{text}.")
    if several:
        model = click.option("--model", "models", multiple=True, default=("smollm2-135m",), show_default=True,
                             help=f"{text} (repeatable: compared).")  # fmt: skip
    return chain(
        model,
        click.option(
            "--dtype",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            help="auto takes bfloat16 where the machine computes in it.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda, mps, ...; balanced or "
            "sequential: spread over all accelerators and the CPU's memory.",
        ),
    )


engine_option = click.option(
    "--engine",
    default="transformers",
    show_default=True,
    type=click.Choice(["transformers", "vllm"]),
    help="What runs the model; vllm needs the extra of that name.",
)
subject_options = _subject_options(several=False)
subjects_options = _subject_options(several=True)
call_options = chain(
    click.option("--base-url", help="Address of an OpenAI-compatible server, e.g. http://localhost:8000/v1."),
    click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Calls at once."),
    click.option("--max-calls", type=click.IntRange(min=1), help="Make at most N calls; the next run goes on."),
)
api_options = chain(
    call_options,
    click.option("--price", help="IN/OUT: price of a million tokens, for the estimate, e.g. 0.15/0.60."),
)
optional_judge_options = chain(
    click.option("--judge", "judge", help="Who grades answers: local, local:MODEL, openai:NAME, anthropic:NAME, "
                 "scripted:FILE. Default: nobody."),
    click.option("--text", "judge_text", is_flag=True, help="--judge: read scores from its text, for endpoints that "
                 "know no log-probabilities."),
    call_options,
)  # fmt: skip
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
json_option = click.option("--json", "json_path", type=click.Path(dir_okay=False), callback=json_alone,
                           help="Write the result as JSON (-: to standard output, alone).")  # fmt: skip
seed_option = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, (1 << 32) - 1))


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


def load_model(model: str, dtype: str, device: str, engine: Any = "transformers") -> Subject:
    """Load the subject behind a status line.

    Raises:
        UserError: the model is behind an API, where its inside cannot be seen.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.subject.chat import makeshifts
    from llm_persona.subject.load import load_subject

    if model.startswith("openai:"):
        raise UserError(f"--model {model}: this command needs a model that runs here; give a folder or Hub id")
    with status(f"loading {model}"):
        subject = load_subject(model, dtype=dtype, device=device, engine=engine)
    for note in makeshifts(subject):
        click.echo(f"llm-persona: note: {note}", err=True)
    return subject


@dataclass(frozen=True)
class ApiArguments:
    """The raw values of `api_options`."""

    base_url: str | None
    concurrency: int
    max_calls: int | None
    price: str | None

    @property
    def rates(self) -> tuple[float, float] | None:
        """Price of a million tokens in and out.

        Raises:
            UserError: `--price` is not two numbers.
        """
        from llm_persona.domain.errors import UserError

        if self.price is None:
            return None
        try:
            sent, back = (float(part) for part in self.price.split("/"))
        except ValueError as error:
            raise UserError(f"--price {self.price}: write IN/OUT, e.g. 0.15/0.60") from error
        return sent, back

    def remote(self, model: str) -> bool:
        """Whether the model is behind an API."""
        return self.base_url is not None or model.startswith("openai:")

    def load(self, model: str, dtype: str, device: str, engine: Any = "transformers") -> Any:
        """The subject: here, or behind an API where `--base-url` or the prefix `openai:` says so.

        Raises:
            UserError: an engine is named for a model behind an API.
        """
        from llm_persona.domain.errors import UserError

        if not self.remote(model):
            return load_model(model, dtype, device, engine)
        if engine != "transformers":
            raise UserError(f"--engine {engine}: {model} is behind an API, which runs it; leave --engine out")
        from llm_persona.subject.remote.api_subject import connect
        from llm_persona.subject.remote.caller import Limits

        return connect(model, self.base_url, Limits(self.concurrency, max_calls=self.max_calls))


def api_from(arguments: dict[str, Any]) -> ApiArguments:
    """Take the options of `api_options` out of a command's keyword arguments."""
    return ApiArguments(**{name: arguments.pop(name) for name in ("base_url", "concurrency", "max_calls", "price")})


def write_result(path: str | None, value: Any) -> None:
    """Write `--json`, if asked for; `-` is standard output."""
    if path == "-":
        from llm_persona.domain.store import json_chunks

        real_stdout().writelines(json_chunks(value, ascii_only=True))
        real_stdout().flush()
    elif path is not None:
        from llm_persona.domain.store import write_json

        write_json(Path(path), value)


@contextmanager
def output_checked(*paths: str | None) -> Iterator[None]:
    """Find out before the work, not after it, that a result cannot be written."""
    import tempfile

    from llm_persona.domain.errors import UserError

    for text in paths:
        if text is None or text == "-":
            continue
        folder = Path(text).absolute().parent
        while not folder.exists():
            folder = folder.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"{text}: {folder} is not a writable folder; choose another place") from error
        if Path(text).is_dir():
            raise UserError(f"{text}: is a folder; give a file name")
    yield


def read_item_set(trait: str | None, source: str, split: str, limit: int | None) -> Items:
    """Items by `--items` (bank or a file) and `--split`; a file is used whole unless a split is asked for."""
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.items import SPLITS

    if source == "second":
        items = load_items(trait, author="second")
    else:
        items = load_items(trait) if source == "bank" else load_items(trait, path=source)
    if split == "default":
        split = "test" if source == "bank" else "all"
    for name in SPLITS:
        if split == name:
            items = items.split(name)
    if not len(items):
        raise UserError(f"--items {source}: split {split!r} holds no item")
    return items[:limit]
