import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.hygiene.personal import KINDS, find, iban, luhn, mask

EXAMPLES = {
    "email": ["ada.lind+x@mail.example.org"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    "us_ssn": ["123-45-6789"],
    "ip_address": ["8.8.4.4", "2001:4860:4860:0:0:0:0:8888"],
    "phone": ["+49 30 901820", "+1 (212) 555-0187", "212-555-0187"],
    "token": [
        "AKIA" + "ABCDEFGH12345678",
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
    ],
    "secret": ["api_key = 'q8Zr2LxV9mTb4WkE'", 'password: "hT7-kd92Lwq_x1"'],
    "private_key": ["-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAAA\n-----END RSA PRIVATE KEY-----"],
}
HARMLESS = [
    "The number 1234 5678 9012 3456 is no card.",
    "Version 1.2.3.4, v8.8.1.2 and 10.0.0.1 and 192.168.1.20 name nobody.",
    "In 1998-2004 there were 300 000 of them; pi is 3.14159265358979.",
    "Order 20240117-0042, ISBN 978-3-16-148410-0.",
    "password: correct horse battery staple",
    "api_key = YOUR_API_KEY_GOES_HERE",
    "Call me at noon, room 212.",
    "e-mail @ home",
]


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in EXAMPLES.items() for t in texts])
def test_found_where_it_stands_and_masked(kind: str, text: str) -> None:
    full = f"See this: {text} (end)"
    [finding] = find(full)
    assert finding.kind == kind
    assert text.strip("'\"") in full[finding.start : finding.end] or full[finding.start : finding.end] in text
    masked = mask(full, [finding])
    assert masked == f"{full[: finding.start]}[{kind.upper()}]{full[finding.end :]}"
    assert find(masked) == []


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless(text: str) -> None:
    assert find(text) == []


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)


@given(st.lists(st.integers(0, 9), min_size=12, max_size=18))
def test_luhn_accepts_exactly_one_check_digit(digits: list[int]) -> None:
    head = "".join(map(str, digits))
    right = [d for d in range(10) if luhn(f"{head}{d}")]
    assert len(right) == 1 or len(set(head)) == 1


@given(st.text("0123456789", min_size=18, max_size=18))
def test_iban_accepts_its_check_number_and_no_neighbour(number: str) -> None:
    value = int(number + "131400")  # "DE" is 13 14
    check = 98 - value % 97
    assert iban(f"DE{check:02d}{number}")
    assert not iban(f"DE{(check % 97) + 1:02d}{number}") or check == 98


@given(st.text(max_size=200))
def test_masking_nothing_changes_nothing_and_findings_never_overlap(text: str) -> None:
    findings = find(text)
    assert all(x.end <= y.start for x, y in itertools.pairwise(findings))
    assert mask(text, []) == text


def test_only_the_kinds_asked_for() -> None:
    assert find("ada@example.org and 123-45-6789", ("us_ssn",))[0].kind == "us_ssn"
