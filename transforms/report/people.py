"""The section of the report on people: agreement, each annotator, drift, suspicions, judges, the certificate."""

from __future__ import annotations

from typing import Any

from schemas.manifest import Manifest
from transforms.report.people_tables import interval, sentences
from transforms.stats.certificate_text import notes_of
from transforms.stats.people import People


def people_context(people: People | None, manifest: Manifest) -> dict[str, Any]:
    """What `people.html.jinja2` shows; empty if nobody answered."""
    if people is None:
        return {}
    frames = {name: getattr(people, name).fill_nan(None).to_dicts() for name in _FRAMES}
    return {
        **frames,
        "sentences": sentences(people),
        "alpha": interval(people.alpha),
        "certificate": _certificate(manifest.certificate),
        "certificate_notes": notes_of(manifest.certificate or {}),
    }


_FRAMES = ("annotators", "drift", "suspicions", "judges", "agreeing")


def _certificate(certificate: dict[str, Any] | None) -> list[dict[str, Any]]:
    """One row for all published labels, then one per slice; `state` is that of versions that know none as well."""
    if certificate is None:
        return []
    rows = [{"slice": "all", "value": "", **certificate}]
    for name, values in certificate["slices"].items():
        rows += [{"slice": name, "value": value, **figures} for value, figures in values.items()]
    return [{**row, "state": "NOT_AUDITED" if row["accuracy"] is None else "AUDITED"} for row in rows]
