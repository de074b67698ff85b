"""What the page can offer: vectors, adapters and models of a run folder, of given files, or of what lies in runs/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import read_json

RUNS = Path("runs")
MOST = 24
"""Vectors offered at once; more would not fit on a page."""


@dataclass(frozen=True)
class Offer:
    """One vector of the page. `usable`: its measured usable range of doses; None where no study measured one."""

    name: str
    path: str
    vector: PersonaVector
    model: str
    usable: tuple[float, float] | None = None
    layer: int = 0
    """The layer to start with."""
    layer_from: str = "the middle of the model"
    """Why this layer."""


@dataclass
class Shelf:
    """Everything on offer; `first` is the model to begin with."""

    first: str
    offers: list[Offer] = field(default_factory=list)
    adapters: dict[str, str] = field(default_factory=dict)
    """Folder to the model it was trained on."""

    @property
    def models(self) -> list[str]:
        """Models that something here was made on, the first one first."""
        return list(dict.fromkeys([self.first, *[o.model for o in self.offers], *self.adapters.values()]))

    def vectors_of(self, model: str) -> list[Offer]:
        """Vectors made on a model."""
        return [o for o in self.offers if o.model == model]

    def adapters_of(self, model: str) -> list[str]:
        """Adapters trained on a model."""
        return [path for path, made_on in self.adapters.items() if made_on == model]

    def add(self, path: Path, usable: Any = None, model: str | None = None) -> Offer:
        """Put a vector file on the shelf, under its trait's name or, where that is taken, with its folder's. `model`:
        the one it was made on just now, as it is called here.

        Raises:
            UserError: not a vector.
        """
        offer = _offer(path, self.first, usable)
        if model is not None:
            offer = replace(offer, model=model)
        taken = {o.name for o in self.offers}
        if offer.name in taken:
            place = path.parent.parent.name if path.parent.name == "vectors" else path.stem
            names = [f"{offer.name} ({place})", *[f"{offer.name} ({place} {n})" for n in range(2, MOST + 2)]]
            offer = replace(offer, name=next(n for n in names if n not in taken))
        self.offers.append(offer)
        return offer


def stock(run: str | None, vectors: Sequence[str], model: str | None, default: str, runs: Path = RUNS) -> Shelf:
    """Fill a shelf: the run's things and the given files; without either, what lies in `runs`, newest first.

    `model`: the one asked for, if any; else the run's, else that of the first vector, else `default`.

    Raises:
        UserError: the run is no folder of one, or a given file is no vector.
    """
    given = [Path(path) for path in vectors]
    if run is None and not given:
        newest = sorted((p for p in runs.glob("*/vectors") if p.is_dir()), key=lambda p: -p.stat().st_mtime)
        folders = [p.parent for p in newest]
    else:
        folders = [Path(run)] if run is not None else []
    results = {folder: _results(folder) for folder in folders}
    if run is not None:
        here = Path(run)
        if not here.is_dir():
            raise UserError(f"{run}: no such run folder; make one with `llm-persona run --out {run}`")
        if not any((here / "vectors").glob("*.safetensors")) and not given:
            raise UserError(f"{run}: holds no vectors/*.safetensors; make them with `llm-persona run --out {run}`")
    named = next((str(r["model"]) for r in results.values() if r.get("model")), None)
    made_on = named or next((PersonaVector.load(p).meta.get("model") for p in given), None)
    shelf = Shelf(model or (str(made_on) if made_on else default))
    for path in given:
        shelf.add(path)
    for folder, found in results.items():
        for path in sorted((folder / "vectors").glob("*.safetensors")):
            if len(shelf.offers) == MOST:
                break
            trait = found.get("traits", {}).get(path.stem, {})
            try:
                shelf.add(path, trait.get("dose_response", {}).get("usable_range"))
            except UserError:
                if run is not None:
                    raise  # (what merely lies about is left out)
        for config in sorted((folder / "adapters").glob("*/adapter_config.json")):
            if (config.parent / "adapter_model.safetensors").is_file():
                shelf.adapters[str(config.parent)] = str(found.get("model") or shelf.first)
    return shelf


def _results(folder: Path) -> dict[str, Any]:
    """The run's results, if it is finished and they can be read."""
    path = folder / "results.json"
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _offer(path: Path, model: str, usable: Any) -> Offer:
    vector = PersonaVector.load(path)
    recommended = vector.meta.get("recommended") or {}
    layer, why = vector.n_layers // 2, "the middle of the model: the file recommends none"
    for key, reason in (("quality", "best read; its effect was not measured"), ("balanced", "recommended")):
        if isinstance(recommended.get(key), int) and 0 <= recommended[key] < vector.n_layers:
            layer, why = recommended[key], reason
    ends = (float(usable[0]), float(usable[1])) if usable and len(usable) == 2 else None
    name = str(vector.meta.get("trait") or path.stem)
    return Offer(name, str(path), vector, str(vector.meta.get("model") or model), ends, layer, why)
