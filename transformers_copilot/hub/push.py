"""Uploading as one commit: all of it arrives, or none."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..pair.version import __version__
from .model_card import write_card


# An earlier push's weights in another number of files: transformers would take `model.safetensors` before an index.
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
_ADVICE = {
    401: "The Hub does not know the token, or there is none: `hf auth login`, or pass `token=`.",
    403: "The token may not write there: take one with the write role, or a namespace of yours.",
    404: "There is no such repository or branch, or this token may not see it: look at the id and `revision=`.",
    409: "Another push came in between, or the name is taken: push again.",
    412: "Another push came in between: push again.",
}


@cache
def hub_api() -> HfApi:
    """The client, which tells the Hub this package's name and version. One for all: its jobs run in their order."""
    return HfApi(library_name="transformers_copilot", library_version=__version__)


def files_of(folder: str | Path) -> dict[str, Path]:
    """A folder's files by the names that they have in a repository.

    Args:
        folder (`str` or `Path`): the folder; those inside it count too.
    """
    return {file.relative_to(folder).as_posix(): file for file in sorted(Path(folder).rglob("*")) if file.is_file()}


def push_files(
    files: dict[str, Path],
    repo_id: str,
    *,
    commit_message: str,
    commit_description: str | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload files in one commit, and delete weights that an earlier push stored in other files.

    Args:
        files (`dict[str, Path]`): what to upload, by its name in the repository.
        repo_id (`str`): a repository that exists.
        commit_message (`str`): title of the commit in the repository's history.
        commit_description (`str`, *optional*): text below that title.
        token (`str` or `bool`, *optional*): the Hub's token; by default the one that is logged in.
        revision (`str`, *optional*): a branch, made where it does not exist. Defaults to the main one.
        create_pr (`bool`, *optional*, defaults to `False`): propose the commit instead of making it.
    """
    api = hub_api()
    if revision is not None and not create_pr and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    present = api.list_repo_files(repo_id, revision=revision, token=token)
    has_weights = any(_WEIGHTS.fullmatch(name) for name in files)
    stale = [name for name in present if has_weights and _WEIGHTS.fullmatch(name) and name not in files]
    return api.create_commit(
        repo_id,
        [
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()),
            *(CommitOperationDelete(path_in_repo=name) for name in stale),
        ],
        commit_message=commit_message,
        commit_description=commit_description,
        token=token,
        revision=revision,
        create_pr=create_pr,
    )


def push_folder(folder: str | Path, repo_id: str, **commit: Any) -> CommitInfo:
    """Upload a folder; see [`push_files`].

    Args:
        folder (`str` or `Path`): what to upload, with all files of the folders inside it.
        repo_id (`str`): a repository that exists.
        **commit: as [`push_files`] takes them.
    """
    return push_files(files_of(folder), repo_id, **commit)


@contextmanager
def push_errors_explained(repo_id: str) -> Iterator[None]:
    """Add to whatever goes wrong inside what became of the repository, and what to do.

    Args:
        repo_id (`str`): where the push goes.
    """
    try:
        yield
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        advice = _ADVICE.get(status or 0, "Push again when the Hub can be reached.")
        error.add_note(f"Nothing of this push is on the Hub: {repo_id} holds what it held before. {advice}")
        raise


def push_pair(pair: Any, repo_id: str, tokenizer: Any, options: dict[str, Any]) -> CommitInfo:
    """Save a pair into a temporary folder and upload that.

    Args:
        repo_id (`str`): the repository; made where it does not exist.
        tokenizer: goes with it, if given.
        options (`dict`): as [`PairHubMixin.push_to_hub`] takes them.
    """
    private, max_shard_size, tags = (options.pop(name) for name in ("private", "max_shard_size", "tags"))
    token = options["token"]
    with push_errors_explained(repo_id):  # before weights are written: the token may not do
        repo_id = hub_api().create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        pair.save_pretrained(folder, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        with push_errors_explained(repo_id):
            write_card(pair, folder, repo_id, token=token, revision=options["revision"], tags=tags)
            return push_folder(folder, repo_id, **options)


__all__ = ["files_of", "hub_api", "push_errors_explained", "push_files", "push_folder", "push_pair"]
