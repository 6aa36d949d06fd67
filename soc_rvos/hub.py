"""Saved models on the Hugging Face hub, through the calls of `huggingface_hub`."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from models.saved_model import CARD, CONFIG, TEXT_ENCODER, WEIGHTS
from structures.user_path import user_path

PATTERNS = [WEIGHTS, CONFIG, CARD, *(f"{TEXT_ENCODER}/*.{suffix}" for suffix in ("json", "txt", "model"))]
"""What is downloaded: the parts of a saved model, of which tokenizers are JSON, lists of words, or SentencePiece."""

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def find_folder(
    name: str | Path,
    *,
    revision: str | None,
    token: str | bool | None,
    cache: Path | None,
    local_files_only: bool,
) -> Path:
    """A folder on this machine, or the copy of a model on the hub; it is downloaded once.

    Args:
        name: a folder, or an id such as `user/model`.
        revision: branch, tag or commit of a model on the hub; None: its main branch.
        token: of the hub; None: the one that is stored on this machine, False: none.
        cache: folder of downloads; None: that of `huggingface_hub`.
        local_files_only: use what has been downloaded before.

    Raises:
        ValueError: there is no such folder, and no such model that can be reached.
    """
    folder = user_path(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision}: {name} is a folder on this machine, which has no revisions")
        return folder
    if isinstance(name, Path) or not _HUB_ID.fullmatch(name):
        raise ValueError(f"{name}: no such folder, and no id of a model on the hub, such as user/model")
    try:
        downloaded = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=PATTERNS,
        )
    except Exception as error:  # the library lets through those of whatever HTTP library it is built on
        raise ValueError(
            f"{name}: there is no such folder, and no model of this id could be had from the hub "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        ) from error
    return Path(downloaded)


def upload(
    folder: Path, repo_id: str, *, revision: str | None, token: str | bool | None, private: bool | None, message: str
) -> str:
    """Uploads a saved model; the repository is made where it is not there yet.

    Args:
        folder: the saved model.
        repo_id: such as `user/model`.
        revision: branch that takes it; None: the main one.
        token: of the hub; None: the one that is stored on this machine.
        private: whether a new repository is private; None: as the account has it.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the hub cannot be reached, or refuses.
    """
    api = HfApi(token=token)
    try:
        full_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(full_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=full_id, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:  # as above
        raise ValueError(
            f"{repo_id}: cannot be uploaded ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        ) from error
    return commit.commit_url
