"""Data sets of the Hugging Face Hub, gated ones too, with one helpful line when they cannot be had."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import file_digest

HUB = "hub:"
PATTERNS = ["*.json", "*.jsonl", "*.parquet"]
NAMED_BY_DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def hub_folder(source: str) -> Path:
    """The local folder of `hub:OWNER/NAME` (or `hub:OWNER/NAME@REVISION`), downloaded if it is not in the Hub's cache.

    Only data files are fetched; no code of the data set is run.

    Raises:
        UserError: no such data set, no access to a gated one, no network and nothing cached.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    if name.count("/") != 1:
        raise UserError(f"--items {source}: write hub:OWNER/NAME, for example hub:mirlab/TRAIT")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=PATTERNS)
        return check_blobs(Path(folder), source)
    except GatedRepoError as error:
        raise UserError(
            f"--items {source}: the data set is gated; accept its terms on its page, then set HF_TOKEN to a token of "
            "yours (.env.example)"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"--items {source}: no such data set, or it is private; check the name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"--items {source}: has no revision {revision!r}") from error
    except HFValidationError as error:
        raise UserError(f"--items {source}: {one_line(str(error), 160)}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"--items {source}: cannot be fetched ({type(error).__name__}); connect to the Hub, or download the files "
            "elsewhere and give their folder with --items"
        ) from error


def check_blobs(folder: Path, source: str, sha256: Callable[[Path], str] = file_digest) -> Path:
    """The folder of a snapshot, if each file is what its blob's name says: git's SHA-1, or SHA-256 for large files.

    Args:
        sha256: gives the digest of a large file.

    Raises:
        UserError: a file was damaged or altered, or is gone.
    """
    for link in sorted(p for p in folder.rglob("*") if p.is_symlink()):
        blob = link.resolve()
        if blob.parent.name != "blobs" or not NAMED_BY_DIGEST.fullmatch(blob.name):
            continue  # (a cache without links holds copies, which carry no digest)
        if not blob.is_file():
            raise UserError(f"{source}: {link.name} is gone ({blob}); delete {link} and fetch it again")
        if _digest_as_named(blob, sha256) != blob.name:
            raise UserError(
                f"{source}: {link.name} is not what its digest says: its download was cut short, or it was altered; "
                f"delete {blob} and fetch it again"
            )
    return folder


def _digest_as_named(blob: Path, sha256: Callable[[Path], str]) -> str:
    if len(blob.name) == 64:
        return sha256(blob)
    content = blob.read_bytes()
    named = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    named.update(content)
    return named.hexdigest()
