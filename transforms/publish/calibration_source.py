"""What probabilities rest on, in the words that report, card, exports and command line share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BELIEFS = "rest on prior beliefs about the voters alone"
UNCALIBRATED = f"uncalibrated: probabilities, margins and weights {BELIEFS}"
RESTS_ON: dict[str | None, str] = {
    "people": "calibrated on labels of people, or known answers",
    "agreement": "calibrated by the agreement of independent voters",
    None: UNCALIBRATED,
}


def is_uncalibrated(estimates: Mapping[str, Any] | None) -> bool:
    """Whether nothing but the prior says how far voters can be believed.

    Versions published before estimates said what they rest on are not called uncalibrated.
    """
    return (estimates or {}).get("calibrated_by", "unknown") is None
