"""Data sets of the `datasets` library, written once as Parquet so that they can be sliced like any file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from schemas.errors import DataError
from schemas.ids import hash_json
from transforms.sources.config import PairsSource, PromptsSource


def materialise(config: PromptsSource | PairsSource, base_dir: Path, folder: Path) -> Path:
    """Load the source's data set (from the cache alone if HF_HUB_OFFLINE is set) and write it as one Parquet file.

    The file is named by the data set's own fingerprint, so unchanged data is written once.

    Raises:
        DataError: the library cannot load it; the text carries the library's reason.
    """
    import datasets

    name = str(config.dataset)
    local = base_dir / Path(name).expanduser()
    address = str(local) if local.is_dir() else name
    try:
        data = _load(datasets, address, config)
    except Exception as error:  # the library raises many unrelated types; all mean the same to a reader
        raise DataError(
            f"source {config.name!r}: the data set {name!r} (split {config.split!r}, config {config.config!r}) "
            f"cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    key = hash_json([name, config.config, config.split, config.revision, data._fingerprint])
    target = folder / f"{key}.parquet"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        data.to_parquet(str(partial))
        partial.replace(target)
    return target


def _load(datasets: Any, address: str, config: PromptsSource | PairsSource) -> Any:
    folder = Path(address)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        saved = datasets.load_from_disk(address)
        return saved[config.split] if isinstance(saved, datasets.DatasetDict) else saved
    return datasets.load_dataset(address, config.config, split=config.split, revision=config.revision)
