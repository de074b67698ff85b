"""Whether a run folder is whole: every file there, readable, and as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.adapters import RECORD, adapter_fault
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import is_intact, version_in
from llm_persona.domain.store import file_digest, read_json
from llm_persona.studies.folder import LOCK, study_settings
from llm_persona.studies.health import Check
from llm_persona.studies.stages import is_whole_stage

AGAIN = "the same `llm-persona {command}` makes it again"
COMMANDS = {"results": "run", "audit": "audit", "prevention": "prevent"}
PAGES = {"results": "report.html", "audit": "audit.html"}


def examine_folder(folder: str | Path) -> list[Check]:
    """Every file of a run, audit or prevention folder against its digest; nothing is changed.

    Returns:
        One check a kind of file; where something is wrong, one a file, with its remedy.

    Raises:
        UserError: no such folder, or one that is none of ours.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: no such run folder; give the folder that `llm-persona run --out` wrote")
    kinds = [kind for kind in COMMANDS if (path / f"{kind}.json").is_file()]
    if not kinds and not (path / "stages").is_dir():
        raise UserError(f"{folder}: holds no run, audit or prevention; give the folder that --out named")
    kind = kinds[0] if kinds else "results"
    again = AGAIN.format(command=COMMANDS[kind])
    manifest = _read(path / "manifest.json") or {}
    groups: list[tuple[str, int, list[Check]]] = [
        _results(path, kind, manifest, again),
        _manifest(path, kind, manifest, again),
        _stages(path, manifest, again),
        _vectors(path, again),
        _adapters(path, again),
        _page(path, kind),
        _leftovers(path, again),
    ]
    return [
        check
        for name, count, faults in groups
        for check in (faults or [Check(name, f"{count} whole" if count else "none", "ok")])
    ]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except UserError:
        return None
    return found if isinstance(found, dict) else None


def _results(path: Path, kind: str, manifest: dict[str, Any], again: str) -> tuple[str, int, list[Check]]:
    """The result itself."""
    name = f"{kind}.json"
    if not (path / name).is_file():
        return name, 0, [Check(name, "is not there: the work was not finished", "missing", again)]
    found = _read(path / name)
    faults = []
    if found is None:
        faults.append(Check(name, "cannot be read", "missing", again))
    else:
        try:
            version_in(found.get("format"), kind, name)
        except UserError as error:
            return name, 0, [Check(name, str(error), "missing", "update llm-persona")]
        if not is_intact(found):
            faults.append(Check(name, "is not as it was written", "missing", again))
    return name, 1, faults


def _manifest(path: Path, kind: str, manifest: dict[str, Any], again: str) -> tuple[str, int, list[Check]]:
    """What the manifest keeps a digest of (only studies write one)."""
    name = "manifest.json"
    if kind != "results":
        return name, 0, []
    if not (path / name).is_file():
        return name, 0, [Check(name, "is not there", "missing", again)]
    digests = manifest.get("digests")
    if not is_intact(manifest) or not isinstance(digests, dict):
        return name, 0, [Check(name, "is not as it was written", "missing", again)]
    faults = []
    if study_settings(path) is None:
        faults.append(Check("study.yaml", "cannot be read", "missing", again))
    for part, kept in digests.items():
        file = path / part
        if not file.resolve().is_relative_to(path.resolve()):
            continue
        if not file.is_file():
            faults.append(Check(part, "is gone", "missing", again))
        elif file_digest(file) != kept:
            faults.append(Check(part, "is not as it was written (its digest differs)", "missing", again))
    return "files of the manifest", len(digests), faults


def _stages(path: Path, manifest: dict[str, Any], again: str) -> tuple[str, int, list[Check]]:
    """Every stage, and the activations some of them stand for."""
    folder = path / "stages"
    faults, files = [], sorted(folder.glob("*.json"))
    for file in files:
        found = _read(file)
        if not is_whole_stage(found):
            faults.append(Check(f"stages/{file.name}", "is not as it was written", "missing", again))
            continue
        stamp = found["value"] if found is not None else None
        if isinstance(stamp, dict) and stamp.keys() == {"file", "sha256"}:
            beside = folder / Path(str(stamp["file"])).name
            if not beside.is_file():
                faults.append(Check(f"stages/{beside.name}", "is gone", "missing", again))
            elif file_digest(beside) != stamp["sha256"] or _unreadable(Activations.load, beside):
                faults.append(Check(f"stages/{beside.name}", "is not as it was written", "missing", again))
    listed = manifest.get("stage_files")
    named = {str(name) for name in listed} if isinstance(listed, list) else set()
    gone = sorted(name for name in named if not (folder / Path(name).name).is_file())
    told = {check.name for check in faults}
    faults += [Check(f"stages/{n}", "is gone", "missing", again) for n in gone if f"stages/{n}" not in told]
    return "stages", len(files), faults


def _unreadable(load: Any, file: Path) -> str:
    try:
        load(file)
    except UserError as error:
        return str(error).removeprefix(f"{file}: ")
    return ""


def _vectors(path: Path, again: str) -> tuple[str, int, list[Check]]:
    files = sorted((path / "vectors").glob("*.safetensors"))
    faults = [
        Check(f"vectors/{file.name}", fault, "missing", again)
        for file in files
        if (fault := _unreadable(PersonaVector.load, file))
    ]
    return "vectors", len(files), faults


def _adapters(path: Path, again: str) -> tuple[str, int, list[Check]]:
    folders = sorted({file.parent for file in (path / "adapters").rglob(RECORD)}
                     | {file.parent for file in (path / "adapters").rglob("adapter_config.json")})  # fmt: skip
    folders = [f for f in folders if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    faults = []
    for folder in folders:
        try:
            fault = adapter_fault(folder)
        except UserError as error:
            fault = str(error)
        if fault:
            name, _, what = fault.removeprefix(f"{path}/").partition(": ")
            faults.append(Check(name, what, "missing", again))
    return "adapters", len(folders), faults


def _page(path: Path, kind: str) -> tuple[str, int, list[Check]]:
    name = PAGES.get(kind)
    if name is None:
        return "page", 0, []
    if not (path / name).is_file():
        remedy = f"`llm-persona report {path}` writes it" if kind == "results" else "the same audit writes it"
        return name, 0, [Check(name, "is not there", "missing", remedy)]
    return name, 1, []


def _leftovers(path: Path, again: str) -> tuple[str, int, list[Check]]:
    """What a killed process left: harmless, and gone after the next run."""
    left = [p for p in path.rglob(".*") if p.name.endswith(".tmp") or ".training-" in p.name]
    if left and _busy(path):
        return "leftovers", 0, [Check("leftovers", "a process is at work there now", "note", "wait until it is done")]
    remedy = again.replace("makes it again", "goes on from there, or removes it")
    return "leftovers", 0, [Check(str(p.relative_to(path)), "left by a killed process", "note", remedy) for p in left]


def _busy(path: Path) -> bool:
    try:
        with FileLock(path / "stages" / LOCK).acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True
