"""The manifest of a dataset version: what it was made of, what it holds, and the hash of every file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from schemas.ids import canonical_json, hash_json

MANIFEST = "manifest.json"
FORMAT: Literal[1] = 1


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0)  # null for what is not a table


class Manifest(BaseModel):
    """Everything that determines a version and everything needed to prove it.

    It holds no time and no machine name: the same inputs give the same bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = FORMAT
    name: str
    version: int = Field(ge=1)
    parent: int | None = Field(default=None, ge=1)
    recipe: str  # the recipe's text
    recipe_hash: str  # of what in the recipe can change the dataset
    code_version: str  # of the package, and the hash of its sources
    inputs: dict[str, str]  # source name -> fingerprint of the rows read and of how they were read
    parts: dict[str, str]  # workspace table -> fingerprint of its set of parts
    voters: dict[str, Any]  # voter -> kind, group, votes in this version, and what the recipe says of it
    splits: dict[str, Any]  # the configuration of the splits, in force
    n_pairs: int = Field(ge=0)
    n_rows: int = Field(ge=0)
    n_rejects: int = Field(ge=0)
    rows_by_split: dict[str, int]
    rejects_by_reason: dict[str, int]  # "stage/reason" -> count
    actions: dict[str, int]  # verdict action -> pairs
    certificate: dict[str, Any] | None = None
    estimates: dict[str, Any] | None = None  # wrong source labels, predicted and actual actions, calibration
    row_hash: str  # independent of the order of rows and of the file layout
    reject_hash: str
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            parts = name.split("/")
            if "\\" in name or "\0" in name or ":" in parts[0] or not all(p.strip(". ") for p in parts):
                raise ValueError(f"{name!r} is no file of a version: its name must be a relative path without '..'")
        return files

    @property
    def content_hash(self) -> str:
        """Equal for two versions with nothing to choose between them."""
        return hash_json([self.recipe_hash, self.row_hash, self.reject_hash])

    @property
    def label(self) -> str:
        """`name@v0001`."""
        return f"{self.name}@{version_name(self.version)}"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


def version_name(version: int) -> str:
    """Folder name of a version."""
    return f"v{version:04d}"
