"""`vectors extract` over models, traits and sources: each combination is the command itself, here or on a worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from llm_persona.interfaces.cli.executor import executor_from, say
from llm_persona.interfaces.cli.result_file import output_checked, write_result

FILES = ("items", "trait", "against", "high_adapter", "low_adapter")
"""Options that may name files: what lies there decides the result too."""
NOT_DECIDING = ("out", "json_path", "concurrency", "max_calls")


def over_models_traits_sources(command: Callable[..., None]) -> Callable[..., None]:
    """Have `command`, which takes one `model`, `trait` and `source`, take several of each, and an executor.

    With one of each and no executor it is the command as it stands. Else `--out` is a folder, where each combination
    writes MODEL/TRAIT-SOURCE.safetensors and .json; `{trait}` in an adapter's path stands for the trait's name.
    """

    @wraps(command)
    def every(
        models: tuple[str, ...], traits: tuple[str, ...], sources: tuple[str, ...], out: str, json_path: str | None,
        **rest: Any,
    ) -> None:  # fmt: skip
        with executor_from(rest) as executor:
            if executor is None and len(models) == len(traits) == len(sources) == 1:
                command(model=models[0], trait=traits[0], source=sources[0], out=out, json_path=json_path, **rest)
                return
            if executor is not None and rest["engine"] != "transformers":
                from llm_persona.domain.errors import UserError

                raise UserError("--engine: workers of --executor ray run transformers; leave one of them out")
            pieces = _pieces(models, traits, sources, Path(out), rest)
            for piece in pieces:
                piece.check()
            with output_checked(json_path, str(Path(out) / "any")):
                _made(pieces, executor)
            _print(pieces)
            write_result(json_path, [piece.result() for piece in pieces])

    return every


@dataclass(frozen=True)
class ExtractionPiece:
    """One combination: the command's `arguments`, written to `stem`.safetensors and .json in `folder`."""

    folder: Path
    stem: str
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """For messages."""
        return "{model}, {trait}, {source}".format(**self.arguments)

    @property
    def files(self) -> tuple[Path, Path]:
        """The vector and the result."""
        return self.folder / f"{self.stem}.safetensors", self.folder / f"{self.stem}.json"

    def check(self) -> None:
        """Refuse what cannot be extracted before anything is.

        Raises:
            UserError: as `settled`.
        """
        from llm_persona.interfaces.cli.extraction_arguments import settled

        settled(**self.arguments)

    def make(self) -> bool:
        """Extract, unless the files are there as this combination wrote them; whether it was extracted."""
        from llm_persona.domain.store import file_digest
        from llm_persona.studies.stages import Stages

        stages, key = Stages(self.folder / "stages"), self._key()

        def extracted() -> list[str]:
            from llm_persona.interfaces.cli.vectors import extract

            vector, result = (str(path) for path in self.files)
            assert extract.callback is not None
            extract.callback.__wrapped__(**self.arguments, out=vector, json_path=result)  # type: ignore[attr-defined]
            return [file_digest(path) for path in self.files]

        digests = stages.value(self.stem, key, extracted)
        if not all(p.is_file() and file_digest(p) == d for p, d in zip(self.files, digests, strict=True)):
            stages.forget(self.stem, key)
            stages.value(self.stem, key, extracted)
        return stages.made > 0

    def _key(self) -> Any:
        from llm_persona.domain.provenance import git_revision, own_version
        from llm_persona.domain.store import file_digest
        from llm_persona.domain.traits import load_trait
        from llm_persona.subject.locate import identify

        given = {k: v for k, v in self.arguments.items() if k not in NOT_DECIDING}
        named = [text for option in FILES for text in _texts(given[option])]
        files = sorted(p for text in named for p in (Path(text), *Path(text).glob("*")) if p.is_file())
        identity = identify(given["model"], given["dtype"], given["device"], given["engine"])
        # (rules change with versions: a layer is chosen again)
        return [
            identity,
            own_version(),
            git_revision(),
            given,
            load_trait(given["trait"]).digest,
            [[str(p), file_digest(p)] for p in files],
        ]

    def result(self) -> dict[str, Any]:
        """The combination and the JSON of `vectors extract`, as it lies in the folder."""
        from llm_persona.domain.store import read_json

        vector, result = self.files
        said = {k: self.arguments[k] for k in ("model", "trait", "source")}
        return {**said, "vector": str(vector), "result": read_json(result)}


def _texts(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _pieces(
    models: tuple[str, ...], traits: tuple[str, ...], sources: tuple[str, ...], out: Path, rest: dict[str, Any]
) -> list[ExtractionPiece]:
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.studies.many import folder_names

    if out.suffix == ".safetensors" or out.is_file():
        raise UserError(f"--out {out}: several vectors are written; give a folder")
    models, traits, sources = (tuple(dict.fromkeys(given)) for given in (models, traits, sources))
    folder = out.absolute()
    found = []
    for model, place in zip(models, folder_names(models), strict=True):
        for trait in traits:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", load_trait(trait).name)
            adapters = {k: (rest[k] or "").replace("{trait}", name) or None for k in ("high_adapter", "low_adapter")}
            for source in sources:
                given = {**rest, **adapters, "model": model, "trait": trait, "source": source}
                found.append(ExtractionPiece(folder, f"{place}/{name}-{source}", given))
    stems = [piece.stem for piece in found]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise UserError(f"--trait: two traits would be written to {twice}; rename one of them")
    return found


def _made(pieces: list[ExtractionPiece], executor: Any) -> None:
    from llm_persona.studies.folder import working_in
    from llm_persona.studies.same_machines import check_workers

    def done(piece: Any, made: bool) -> None:
        say(f"{piece.name}: {'extracted' if made else 'was there'}")

    with working_in(pieces[0].folder, "extracting vectors"):
        for piece in pieces:
            piece.files[0].parent.mkdir(parents=True, exist_ok=True)
        if executor is None:
            for piece in pieces:
                done(piece, piece.make())
            return
        check_workers(executor, [tuple(piece.arguments[k] for k in ("model", "dtype", "device")) for piece in pieces])
        executor.run(pieces, done)


def _print(pieces: list[ExtractionPiece]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = []
    for piece in pieces:
        found = piece.result()
        layer = found["result"]["layers"][found["result"]["recommended"]["balanced"]]
        controls = found["result"]["controls"]
        rows.append([found["model"], found["trait"], found["source"], str(layer["layer"]), cell(layer["auc"], 3),
                     span(layer["auc_ci"]), cell(controls["lexical_auc"]), piece.files[0].name])  # fmt: skip
    table(f"vectors in {pieces[0].folder}",
          ["model", "trait", "source", "layer", "AUC", "95% interval", "bag of words", "file"], rows)  # fmt: skip
