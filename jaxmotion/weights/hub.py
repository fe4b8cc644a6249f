"""Locations of checkpoints: files and folders here, or repositories of the Hugging Face hub, fetched once and kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from jaxmotion.foundation.errors import CheckpointFileError
from jaxmotion.weights.tensor_files import STANDARD

_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<path>[\w./ -]+))?")


def locate(source: str, *subfolders: str, fetch: bool = True) -> Path:
    """Returns the file or folder of a checkpoint, fetched from the hub if need be.

    Args:
        source: a file, a folder, or a repository as ORG/NAME, ORG/NAME@REVISION or ORG/NAME:PATH/IN/IT.
        subfolders: where in the folder of a whole pipeline the checkpoint may lie; the first that is there is taken.
        fetch: whether the hub is asked for what its cache does not hold.

    Raises:
        CheckpointFileError: nothing is there, or the hub does not have it or cannot be reached.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _within(path, subfolders)
    repository = _REPOSITORY.fullmatch(source)
    if repository is None or not names_repository(source):
        raise CheckpointFileError(
            f"There is no file or folder {source}; give one, or a repository of the Hugging Face hub (ORG/NAME)."
        )
    inside = repository["path"] or ""
    folder = _fetch(repository["name"], repository["revision"], inside, subfolders, fetch)
    return _within(folder / inside, subfolders)


def files_of(source: str, names: Sequence[str]) -> Path:
    """Returns a folder with the named files, as far as the source (a folder or a repository of the hub) has them.

    Raises:
        CheckpointFileError: there is no such folder or repository, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    if not names_repository(source):
        raise CheckpointFileError(f"There is no folder {source}; give one, or a repository of the hub (ORG/NAME).")
    return _snapshot(source, None, list(names), fetch=True)


def names_repository(source: str) -> bool:
    """Returns whether a source that is no file or folder here could be a repository of the hub."""
    return bool(_REPOSITORY.fullmatch(source)) and not source.startswith((".", "/", "~"))


def _within(path: Path, subfolders: Sequence[str]) -> Path:
    return next((path / name for name in subfolders if name and (path / name).is_dir()), path)


def _fetch(name: str, revision: str | None, path: str, subfolders: Sequence[str], fetch: bool) -> Path:
    """Fetches a checkpoint's files (safetensors, else bin); returns their folder in the hub's cache."""
    within = [path] if path else ["", *subfolders]
    places = [f"{place}/" if place else "" for place in dict.fromkeys(within)]
    for endings in (".json", ".safetensors"), (".bin",):
        files = [f for f in (*STANDARD, "*-of-*.safetensors", "config.json") if f.endswith(endings)]
        patterns = [f"{place}{file}" for place in places for file in files]
        folder = _snapshot(name, revision, [*patterns, path] if path else patterns, fetch)
        if any(file.suffix != ".json" for pattern in patterns for file in folder.glob(pattern)) or path:
            break
    if path and not (folder / path).exists():
        raise CheckpointFileError(f"{name} has no {path}.")
    return folder


def _snapshot(name: str, revision: str | None, patterns: list[str], fetch: bool) -> Path:
    try:
        folder = snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=not fetch)
    except GatedRepoError as error:
        raise CheckpointFileError(f"{name} is gated: accept its terms on the hub, then run `hf auth login`.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        asked = f"{name} at {revision}" if revision else name
        raise CheckpointFileError(f"The hub has no {asked}, and there is no such file or folder here.") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it could not be reached"
        raise CheckpointFileError(
            f"{name} is neither a file or folder here nor in the cache of the Hugging Face hub "
            f"({constants.HF_HUB_CACHE}), and the hub was not asked or gave no answer: {why}. Where there is a "
            f"network, run `hf download {name} --local-dir FOLDER` and give that folder."
        ) from error
    return Path(folder)
