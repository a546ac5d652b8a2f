"""What a certificate rests on, in sentences: for the card, the report and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def notes_of(certificate: Mapping[str, Any]) -> list[str]:
    """Sentences on a certificate as a manifest holds it; versions published earlier lack some of its fields."""
    if certificate.get("accuracy") is None:
        return []
    return [_errors(certificate), *_predictions(certificate), *_anytime(certificate)]


def _errors(certificate: Mapping[str, Any]) -> str:
    known, error = certificate.get("known_answers", 0), certificate.get("annotator_error")
    if known:
        return (
            f"Annotators' errors are taken out, also those that they share on hard pairs: {known:,} answers to pairs "
            f"whose answer is known say that {error:.0%} are wrong. This takes the known pairs to be as hard as the "
            "others, and labels to be no worse on hard pairs."
        )
    cure = "add pairs with the tag `control`, whose answer is known"
    if error is None:
        return (
            "This is agreement with one annotator per pair: how often annotators are wrong, alone or together on hard "
            f"pairs, is not identified. To take it out, {cure}."
        )
    return (
        f"Annotators are taken to err independently of each other ({error:.0%} of answers). Errors that they share on "
        f"hard pairs are not identified, and the interval does not cover them. To take them out, {cure}."
    )


def _predictions(certificate: Mapping[str, Any]) -> list[str]:
    if certificate.get("power") is None:
        return []
    return [
        "The interval is narrowed by the published probabilities of all rows, corrected by the audit "
        f"(PPI++, lambda {certificate['power']:.2f})."
    ]


def _anytime(certificate: Mapping[str, Any]) -> list[str]:
    low, high = certificate.get("anytime_low"), certificate.get("anytime_high")
    if low is None or high is None:
        return []
    of = "accuracy" if certificate.get("known_answers") else "agreement with one annotator"
    return [
        f"The interval holds for one look. For {of} looked at after every answer, {low:.1%} to {high:.1%} holds at all "
        f"times ({certificate['level']:.0%})."
    ]
