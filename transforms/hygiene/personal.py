"""Personal data and secrets: rules with a check digit or a fixed shape, so that what they flag is what they say.

Names and addresses need a language model and are not looked for.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Check = Callable[[str], bool]


@dataclass(frozen=True)
class Finding:
    """Characters [start, end) of a text are of this kind."""

    kind: str
    start: int
    end: int


def luhn(text: str) -> bool:
    """Whether the digits' check sum is right (ISO/IEC 7812), for 13 to 19 digits that are not all one."""
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Whether an IBAN's check number is right (ISO 13616, modulo 97)."""
    compact = re.sub(r"\s", "", text).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def public_address(text: str) -> bool:
    """Whether the text is an IP address that names one host on the internet; private and reserved ones name nobody."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def random_looking(text: str) -> bool:
    """Whether the value after the `=` or `:` could be a key: letters and digits, 3 bits a character or more."""
    value = re.split(r"[=:]", text, maxsplit=1)[-1].strip(" \"'")
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= 3.0 and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)


def _always(_: str) -> bool:
    return True


def _phone(text: str) -> bool:
    return 8 <= sum(c.isdigit() for c in text) <= 15


RULES: tuple[tuple[str, re.Pattern[str], Check], ...] = (
    (
        "private_key",
        re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]+-----|\Z)"),
        _always,
    ),
    ("token", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"), _always),
    ("token", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), _always),
    ("token", re.compile(r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{22,}"), _always),
    ("token", re.compile(r"\bglpat-[\w-]{20}|\bxox[abprs]-[\w-]{10,}|\bhf_[A-Za-z]{30,}\b|\bAIza[\w-]{35}"), _always),
    ("token", re.compile(r"\bsk-(?:ant-|proj-)?[\w-]{20,}|\b[sr]k_live_[A-Za-z0-9]{16,}"), _always),
    (
        "secret",
        re.compile(
            r"\b(?:api[_-]?key|secret(?:[_-]?key)?|access[_-]?token|auth[_-]?token|password|passwd)\b"
            r"[\"']?\s*[=:]\s*[\"']?[\w+/.~-]{12,}[\"']?",
            re.IGNORECASE,
        ),
        random_looking,
    ),
    ("email", re.compile(r"\b[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b"), _always),
    ("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), iban),
    ("card", re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d-])"), luhn),
    ("us_ssn", re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _always),
    ("ip_address", re.compile(r"(?<![\d.vV])(?<!ersion )(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)"), public_address),
    ("ip_address", re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\w:])"), public_address),
    (
        "phone",
        re.compile(
            r"(?<![\w.+-])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}(?![\d-])"
            r"|(?<![\w.-])\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[.-]\d{4}(?![\d-])"
        ),
        _phone,
    ),
)
KINDS = tuple(dict.fromkeys(kind for kind, _, _ in RULES))


def find(text: str, kinds: tuple[str, ...] = KINDS) -> list[Finding]:
    """Findings in order of place; where rules overlap the first of `RULES` stands."""
    taken: list[Finding] = []
    for kind, pattern, check in RULES:
        if kind in kinds:
            taken += [f for f in _matches(kind, pattern, check, text) if not any(_overlap(f, t) for t in taken)]
    return sorted(taken, key=lambda f: f.start)


def mask(text: str, findings: list[Finding]) -> str:
    """The text with each finding replaced by its kind in brackets, e.g. `[EMAIL]`."""
    out, last = [], 0
    for finding in findings:
        out += [text[last : finding.start], f"[{finding.kind.upper()}]"]
        last = finding.end
    return "".join([*out, text[last:]])


def _matches(kind: str, pattern: re.Pattern[str], check: Check, text: str) -> Iterator[Finding]:
    return (Finding(kind, m.start(), m.end()) for m in pattern.finditer(text) if check(m.group()))


def _overlap(first: Finding, second: Finding) -> bool:
    return first.start < second.end and second.start < first.end
