"""Locations of checkpoints: files and folders here, or repositories of the Hugging Face hub, fetched once and kept."""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, snapshot_download
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
from jaxmotion.weights import file_names
from jaxmotion.weights.tensor_files import shards_of

_REPOSITORY = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<path>[\w./ -]+))?")
_ADDRESS = re.compile(r"(\w+://|www\.|(huggingface\.co|hf\.co|civitai\.com|github\.com)/).*", re.IGNORECASE)
_HUB_ADDRESS = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?(?P<name>[\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve|tree|raw)/(?P<revision>[^/?#]+)(?:/(?P<path>[^?#]+))?|/(?P<inside>[^?#]+))?/?(?:[?#].*)?"
)
PIPELINE = "model_index.json"
"""The index of a whole pipeline of diffusers."""
_SETTINGS = (PIPELINE, "config.json", "scheduler/scheduler_config.json")
"""Small files that say what a network is; they come along with the weights."""
NO_NETWORKS = ("safety_checker",)
"""Components of pipelines that no system has a place for."""
# The errors of the HTTP library (httpx in version 1 of huggingface_hub, httpx2 in version 2) have a base that is the
# first base of the hub's own, and are no OSErrors.
_UNREACHABLE: tuple[type[Exception], ...] = (
    HfHubHTTPError.__bases__[0],
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    ConnectionError,
    TimeoutError,
)

Result = TypeVar("Result")


def locate(source: str, *subfolders: str, fetch: bool = True) -> Path:
    """Returns the file or folder of a checkpoint, fetched from the hub if need be: its files and no others.

    Args:
        source: a file, a folder, or a repository as ORG/NAME, ORG/NAME@REVISION or ORG/NAME:PATH/IN/IT.
        subfolders: where in the folder of a whole pipeline the checkpoint may lie; the first that is there is taken.
        fetch: whether the hub is asked for what its cache does not hold.

    Raises:
        CheckpointFileError: nothing is there, or the hub does not have it or cannot be reached.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _part_of(path, subfolders)
    repository, inside = _repository_of(source, fetch)
    repository, names = repository.listed()
    if inside and inside in names:
        return repository.get_checkpoint(names, [inside]) / inside
    places = [f"{inside}/{name}" if inside else name for name in subfolders] + [inside]
    place = next((each for each in places if repository.checkpoint_in(names, each)), None)
    if place is None:
        raise repository.without_checkpoint(names, places)
    return repository.get_checkpoint(names, [repository.checkpoint_in(names, place)]) / place


def locate_all(source: str) -> Path:
    """Returns a file or folder like `locate`; of a repository with a whole pipeline, with all its networks.

    Raises:
        CheckpointFileError: nothing is there, or the hub does not have it or cannot be reached.
    """
    if Path(source).expanduser().exists():
        return Path(source).expanduser()
    repository, inside = _repository_of(source, fetch=True)
    repository, names = repository.listed()
    if inside or PIPELINE not in names:
        return locate(source)
    chosen = [repository.checkpoint_in(names, part) for part in _components(names)]
    if not any(chosen):
        raise repository.without_checkpoint(names, [""])
    return repository.get_checkpoint(names, [name for name in chosen if name])


def is_here(source: str, *subfolders: str) -> bool:
    """Returns whether a checkpoint is on this machine; False: it could be fetched from the hub.

    Raises:
        CheckpointFileError: it is neither here nor the name of a repository.
    """
    try:
        locate(source, *subfolders, fetch=False)
    except CheckpointFileError:
        if Path(source).expanduser().exists() or not names_repository(source):
            raise
        return False
    return True


def files_of(source: str, names: Sequence[str]) -> Path:
    """Returns a folder with the named files, as far as the source (a folder or a repository of the hub) has them.

    Raises:
        CheckpointFileError: there is no such folder or repository, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    if not names_repository(source):
        hint = _hint_on_address(source)
        raise CheckpointFileError(
            f"There is no folder {source}; give one, or a repository of the hub (ORG/NAME).{hint}"
        )
    return _Repository(source, None, fetch=True).get(list(names))


def names_repository(source: str) -> bool:
    """Returns whether a source that is no file or folder here could be a repository of the hub."""
    found = _REPOSITORY.fullmatch(source)
    is_file = found is not None and found["path"] is None and source.endswith(file_names.ENDINGS)
    return found is not None and not is_file and not source.startswith((".", "/", "~")) and not _ADDRESS.match(source)


@dataclasses.dataclass(frozen=True)
class _Repository:
    """A repository of the hub; without `fetch`, what the cache has of it."""

    name: str
    revision: str | None
    fetch: bool

    @property
    def _is_offline(self) -> bool:
        return not self.fetch or constants.HF_HUB_OFFLINE

    @property
    def _where(self) -> str:
        return f" in the cache ({constants.HF_HUB_CACHE})" if self._is_offline else ""

    def listed(self) -> tuple[_Repository, list[str]]:
        """Returns (it, the names of its files); where the hub does not answer, of the part that is cached."""
        if not self._is_offline:
            try:  # one request, where `list_repo_files` tries for half a minute
                info = _ask(self, lambda: HfApi().model_info(self.name, revision=self.revision))
                return self, [each.rfilename for each in info.siblings or ()]
            except _NotReachedError:
                pass
        folder = self._cached()
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return dataclasses.replace(self, fetch=False), names

    def get(self, names: Sequence[str]) -> Path:
        """Returns the folder of these files in the cache, where they are put if need be."""
        patterns = [glob.escape(name) for name in names]  # a plain * would cross folders
        asked = {"revision": self.revision, "allow_patterns": patterns, "local_files_only": self._is_offline}
        try:
            return Path(_ask(self, lambda: snapshot_download(self.name, **asked)))
        except _NotReachedError as error:
            folder = self._cached()
            lacking = [name for name in names if not (folder / name).is_file()]
            if lacking:
                raise CheckpointFileError(
                    f"Of {self.name}, the cache of the hub ({constants.HF_HUB_CACHE}) lacks {', '.join(lacking)}, and "
                    f"the hub was not asked or gave no answer: {_why()}."
                ) from error
            return folder

    def get_checkpoint(self, names: Sequence[str], files: Sequence[str | None]) -> Path:
        """Returns the folder in the cache that holds these files or indices, their shards, and their settings."""
        wanted = [name for name in _SETTINGS if name in names]
        for file in filter(None, files):
            place, slash, name = file.rpartition("/")
            beside = [each for each in names if each.rpartition("/")[0] == place and each.endswith("config.json")]
            wanted += [file, *beside]
            if file_names.is_index(name):
                wanted += [f"{place}{slash}{shard}" for shard in shards_of(self.get([file]) / file).values()]
        wanted = list(dict.fromkeys(wanted))
        if lacking := [name for name in wanted if name not in names]:
            raise CheckpointFileError(f"{self.name} is not whole{self._where}: it lacks {', '.join(lacking)}.")
        return self.get(wanted)

    def checkpoint_in(self, names: Sequence[str], place: str) -> str | None:
        """Returns the file or index that is the checkpoint of a folder of it; None if there is none."""
        prefix = f"{place.strip('/')}/" if place else ""
        here = [n.removeprefix(prefix) for n in names if n.startswith(prefix) and "/" not in n.removeprefix(prefix)]
        try:
            chosen = file_names.choose(here, f"{self.name}{f':{place}' if place else ''}")
        except CheckpointFileError as error:
            if place or len(here) < len(names):
                raise
            raise CheckpointFileError(f"{error} Give it as {self.name}:FILE.") from error
        return f"{prefix}{chosen}" if chosen else None

    def without_checkpoint(self, names: Sequence[str], places: Sequence[str]) -> CheckpointFileError:
        """Returns the error that says what the repository has instead."""
        inside = "".join(f" {place}" for place in places if place)
        if parts := [part for part in _components(names) if self.checkpoint_in(names, part)]:
            which = f"no{inside}" if inside else "no checkpoint of its own"
            several = ", ".join(f"{self.name}:{part}" for part in parts)
            return CheckpointFileError(f"{self.name} has {which}{self._where}; it has {several}.")
        others = file_names.other_frameworks(names)
        instead = f"; it has weights of other frameworks ({', '.join(others[:3])})" if others else ""
        return CheckpointFileError(f"{self.name} has no{inside or ' checkpoint'}{self._where}{instead}.")

    def _cached(self) -> Path:
        """Returns the folder of the cached files, whatever is missing among them."""
        try:
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=[], local_files_only=True))
        except HFValidationError as error:
            raise CheckpointFileError(f"There is no file or folder {self.name}, nor a repository.") from error
        except (LocalEntryNotFoundError, OSError) as error:
            snapshots = Path(constants.HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}" / "snapshots"
            found = [each for each in snapshots.glob("*") if each.is_dir()]
            if self.revision is None and len(found) == 1:  # fetched by its revision, so that no branch points at it
                return found[0]
            raise CheckpointFileError(
                f"{self.name} is neither a file or folder here nor in the cache of the Hugging Face hub "
                f"({constants.HF_HUB_CACHE}), and the hub was not asked or gave no answer: {_why()}. Where there is a "
                f"network, run `hf download {self.name} --local-dir FOLDER` and give that folder."
            ) from error


class _NotReachedError(Exception):
    """The hub did not answer."""


def _ask(repository: _Repository, request: Callable[[], Result]) -> Result:
    """Returns the hub's answer. Raises CheckpointFileError if it says no, _NotReachedError if it says nothing."""
    name = repository.name
    try:
        return request()
    except GatedRepoError as error:
        raise CheckpointFileError(f"{name} is gated: accept its terms on the hub, then run `hf auth login`.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        asked = f"{name} at {repository.revision}" if repository.revision else name
        raise CheckpointFileError(f"The hub has no {asked}, and there is no such file or folder here.") from error
    except _UNREACHABLE as error:
        raise _NotReachedError from error
    except OSError as error:
        raise CheckpointFileError(f"{name} could not be fetched into {constants.HF_HUB_CACHE}: {error}.") from error


def _repository_of(source: str, fetch: bool) -> tuple[_Repository, str]:
    """Returns (the repository that a source names, the path in it)."""
    found = _REPOSITORY.fullmatch(source)
    if found is None or not names_repository(source):
        raise CheckpointFileError(
            f"There is no file or folder {source}; give one, or a repository of the Hugging Face hub (ORG/NAME)."
            f"{_hint_on_address(source)}"
        )
    return _Repository(found["name"], found["revision"], fetch), (found["path"] or "").strip("/")


def _part_of(path: Path, subfolders: Sequence[str]) -> Path:
    """Returns the first of the subfolders that is there, else the folder itself."""
    found = next((path / name for name in subfolders if name and (path / name).is_dir()), path)
    if found == path and subfolders and (path / PIPELINE).is_file():
        parts = ", ".join(each.name for each in sorted(path.iterdir()) if each.is_dir())
        raise CheckpointFileError(
            f"{path} is a pipeline without {' or '.join(subfolders)}; it has {parts}. Give that part another source."
        )
    return found


def _components(names: Sequence[str]) -> list[str]:
    """Returns the folders of a pipeline that may hold a network."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return sorted(folders - set(NO_NETWORKS))


def _hint_on_address(source: str) -> str:
    """Returns what would do instead of a web address; empty if the source is none."""
    if found := _HUB_ADDRESS.fullmatch(source):
        revision = f"@{found['revision']}" if found["revision"] not in (None, "main") else ""
        path = (found["path"] or found["inside"] or "").strip("/")
        return f" In place of the web address, give {found['name']}{revision}{f':{path}' if path else ''}."
    if _ADDRESS.match(source):
        return " Web addresses are not opened: download it, and give the file."
    return ""


def _why() -> str:
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it could not be reached"
