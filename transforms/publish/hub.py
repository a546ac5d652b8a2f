"""Versions on the Hugging Face Hub: one dataset repository a dataset, one tag a version.

The token comes from the environment (`HF_TOKEN`) or from `hf auth login`, never from a recipe.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import UsageError, WorkspaceError
from schemas.manifest import MANIFEST, Manifest, version_name
from schemas.secrets import Redaction
from transforms.publish.files import file_entry
from transforms.publish.read import Version
from transforms.publish.store import Datasets

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push(
    datasets: Datasets, version: Version, repository: str, *, private: bool = True, endpoint: str | None = None
) -> str:
    """Upload a version and tag it; the repository's main branch then holds exactly this version.

    If the tag is there already and holds this version, nothing is uploaded.

    Returns:
        The address of the tag.

    Raises:
        WorkspaceError: the tag holds something else, or the Hub refused; the text says why.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint)
    m = version.manifest
    tag = version_name(m.version)
    address = f"{api.endpoint}/datasets/{repository}/tree/{tag}"
    with tempfile.TemporaryDirectory(prefix="prefine-") as folder:
        source = datasets.path(m.name, tag)
        if not datasets.is_local:
            for name in (*m.files, MANIFEST):
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                datasets.fs.get_file(f"{source}/{name}", f"{folder}/{name}")
            source = folder
        try:
            api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            if _is_tagged(api, repository, tag, m):
                return address
            api.upload_folder(
                repo_id=repository,
                repo_type="dataset",
                folder_path=source,
                allow_patterns=[*m.files, MANIFEST],
                delete_patterns="*",
                commit_message=f"{m.label}, rows {m.row_hash}",
            )
            api.create_tag(repository, repo_type="dataset", tag=tag)
        except HfHubHTTPError as error:
            raise WorkspaceError(f"the Hub refused {m.label}: {_without_token(error)}") from error
    return address


def _without_token(error: Exception) -> str:
    from huggingface_hub import get_token

    return Redaction([get_token() or ""]).error(str(error))


def _is_tagged(api: HfApi, repository: str, tag: str, manifest: Manifest) -> bool:
    """Whether the tag is there and holds the version.

    Raises:
        WorkspaceError: it is there and holds something else.
    """
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    with tempfile.TemporaryDirectory(prefix="prefine-") as cache:
        try:
            downloaded = api.hf_hub_download(repository, MANIFEST, repo_type="dataset", revision=tag, cache_dir=cache)
            data = Path(downloaded).read_bytes()
        except RevisionNotFoundError:
            return False
        except EntryNotFoundError:
            data = b""
    if data != manifest.to_bytes():
        raise WorkspaceError(
            f"{repository} has a tag {tag} that holds something other than {manifest.label}; delete the tag on the "
            "Hub, or push to another repository"
        )
    return True


def pull(datasets: Datasets, repository: str, tag: str, *, endpoint: str | None = None) -> Version:
    """Download a version, check every byte against its manifest, and put it among the datasets.

    Raises:
        UsageError: the repository or tag does not exist or holds no version.
        WorkspaceError: a file is missing or has other bytes than its manifest says, or another version of that number
            is here already.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory(prefix="prefine-") as cache:
        try:
            folder = Path(
                snapshot_download(repository, repo_type="dataset", revision=tag, cache_dir=cache, endpoint=api.endpoint)
            )
        except HfHubHTTPError as error:
            raise UsageError(f"cannot read {repository} at {tag}: {_without_token(error)}") from error
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(f"{repository} at {tag} holds no version made by prefine: {error}") from error
        _check(folder, manifest)
        here = datasets.url(manifest.name, version_name(manifest.version))
        if manifest.version in datasets.versions(manifest.name):
            if datasets.manifest(manifest.name, manifest.version) != manifest:
                raise WorkspaceError(f"another {manifest.label} is here already")
            return Version(manifest, here)
        with datasets.publishing(manifest.name) as staging:
            for name in manifest.files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).write_bytes((folder / name).read_bytes())
            datasets.commit(staging, manifest)
        return Version(manifest, here)


def _check(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise WorkspaceError(f"{manifest.label} from the Hub lacks {name}")
        if file_entry(path).sha256 != entry.sha256:
            raise WorkspaceError(f"{manifest.label} from the Hub: {name} has other bytes than its manifest says")
