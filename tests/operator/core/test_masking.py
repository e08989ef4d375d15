"""What a program may print of a secret, and that nothing of it is left."""

import json
import subprocess
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotmac_operator.core.masking import masked, printed_forms
from dotmac_operator.core.secret import SecretStr

PASSWORD = 'tr0ub4dor/&3 "x"+?'
LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us\n"
KEY = f"-----BEGIN KEY-----\n{LINE * 4}-----END KEY-----\n"


def shown(line: str, *secrets: str) -> str:
    return masked(line, printed_forms(map(SecretStr, secrets)), 10_000)


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        json.dumps(PASSWORD)[1:-1],
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        b64encode(PASSWORD.encode()).decode(),
        urlsafe_b64encode(PASSWORD.encode()).decode(),
        PASSWORD.encode().hex(),
        PASSWORD.encode().hex().upper(),
    ],
)
def test_it_is_masked_however_it_is_written(form: str) -> None:
    assert shown(f"with {form} it failed", PASSWORD) == "with *** it failed"


@given(st.text(min_size=6, max_size=40), st.binary(max_size=9), st.binary(max_size=9))
def test_base64_of_something_around_it_tells_two_characters_at_most(secret: str, before: bytes, after: bytes) -> None:
    """Such as `Authorization: Basic`, which is of user and password together."""
    data = secret.encode()
    left = shown(b64encode(before + data + after).decode(), secret)
    assert "***" in left
    own = len(left.replace("***", "")) * 3 / 4 - len(before + after)
    assert own <= 4, "no more than the characters that the secret shares with its neighbours, at each end"


@pytest.mark.parametrize("program", [["base64"], ["openssl", "base64"]])
def test_base64_in_lines(program: list[str]) -> None:
    """Of a key, and only the last lines of it, as the tail of a log has them."""
    said = subprocess.run(program, input=KEY.encode(), capture_output=True, check=True).stdout.decode()
    assert said.count("\n") > 3
    for line in said.splitlines():
        assert shown(line, KEY) == "***"


def test_the_end_of_a_key_of_several_lines_is_masked() -> None:
    """A tail may begin in the middle of it."""
    assert "MIIE" not in shown("\n".join(KEY.splitlines()[3:]), KEY)


def test_short_values_mask_no_words() -> None:
    assert shown("8080 is bm9uZQ and 6e6f6e65", "8080", "none", "a") == "*** is bm9uZQ and 6e6f6e65"


def test_a_cut_leaves_no_half_of_a_secret() -> None:
    assert masked("x" * 10 + "password", printed_forms([SecretStr("password")]), 14) == "x" * 10 + "***"
