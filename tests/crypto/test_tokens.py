"""Callback tokens: those that we made can be read, and no others."""

from __future__ import annotations

import hashlib
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import Signer, TimestampSigner

from flask_hubhooks.crypto.callback_tokens import BadToken, CallbackTokens

TOKENS = CallbackTokens(["key"])
ROUNDS = st.integers(1, 10**9)


@given(st.uuids(), ROUNDS)
def test_round_trip(delivery: uuid.UUID, round_: int) -> None:
    """A token contains its delivery and round, and can be used in a path as it is."""
    token = TOKENS.make(delivery, round_)
    assert TOKENS.read(token) == (delivery, round_)
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text(text: str) -> None:
    """Any text that we did not make is a bad token, even with lone surrogates."""
    with pytest.raises(BadToken):
        TOKENS.read(text)


@given(st.uuids(), ROUNDS, st.data())
def test_altered(delivery: uuid.UUID, round_: int, data: st.DataObject) -> None:
    """A token with one character changed, added or removed is a bad token."""
    token = TOKENS.make(delivery, round_)
    place = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from("Aa0Zz9-_.=+/! é") | st.characters(exclude_categories=[]))
    before, after = token[:place], token[place + 1 :]
    for altered in (before + character + after, before + character + token[place:], before + after):
        if altered != token:
            with pytest.raises(BadToken):
                TOKENS.read(altered)


@given(st.uuids(), ROUNDS, st.integers(0, 200))
def test_truncated(delivery: uuid.UUID, round_: int, length: int) -> None:
    """A token that was cut off is a bad token."""
    token = TOKENS.make(delivery, round_)
    with pytest.raises(BadToken):
        TOKENS.read(token[: length % len(token)])


def test_last_character() -> None:
    """All bits of the last character count, though base64 does not use all of them."""
    token = TOKENS.make(uuid.UUID(int=1), 1)
    for character in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {token[-1]}:
        with pytest.raises(BadToken):
            TOKENS.read(token[:-1] + character)


@given(st.uuids(), ROUNDS, st.uuids())
def test_another_delivery(delivery: uuid.UUID, round_: int, other: uuid.UUID) -> None:
    """A signature is only valid for its own delivery and round."""
    token = TOKENS.make(delivery, round_)
    for forged in (token.replace(delivery.hex, other.hex), token.replace(f".{round_}.", f".{round_ + 1}.")):
        if forged != token:
            with pytest.raises(BadToken):
                TOKENS.read(forged)


def test_earlier_tokens() -> None:
    """A token stays valid over updates: receivers may post their callbacks days later."""
    token = "00000000000000000000000000000001.1.A0-TmKi0QjiF8bPDw5ttXiubMAahmjROrJwMAoRh4s4"
    assert TOKENS.make(uuid.UUID(int=1), 1) == token
    assert TOKENS.read(token) == (uuid.UUID(int=1), 1)


def test_another_key() -> None:
    """A token made with another key is a bad token."""
    with pytest.raises(BadToken):
        TOKENS.read(CallbackTokens(["another"]).make(uuid.uuid4(), 1))


def test_rotated_keys() -> None:
    """After a change of key, tokens of the old one can still be read, and new ones are made with the newest."""
    delivery = uuid.uuid4()
    both = CallbackTokens(["key", b"newer"])
    assert both.read(TOKENS.make(delivery, 3)) == (delivery, 3)
    assert CallbackTokens(["newer"]).read(both.make(delivery, 4)) == (delivery, 4)
    with pytest.raises(BadToken):
        TOKENS.read(both.make(delivery, 4))


def test_signed_for_something_else() -> None:
    """What the app signs with the same key for other purposes is not a token, whatever it contains."""
    said = f"{uuid.uuid4().hex}.1"
    others = [
        Signer("key").sign(said),
        Signer("key", salt="cookie-session", key_derivation="hmac").sign(said),
        Signer("key", salt="flask_hubhooks.callback", key_derivation="hmac").sign(said),
        TimestampSigner("key", salt="flask_hubhooks.callback", digest_method=hashlib.sha256).sign(said),
        Signer("", salt="flask_hubhooks.callback", key_derivation="hmac", digest_method=hashlib.sha256).sign(said),
    ]
    for each in others:
        with pytest.raises(BadToken):
            TOKENS.read(each.decode())


@pytest.mark.parametrize("said", ["", ".", "1", "1.1", "{id}", "{id}.", "{id}.x", "{id}.1.1", ".1", "{id}.1e3"])
def test_signed_but_no_token(said: str) -> None:
    """Even with our key, only a delivery's id and a round make a token."""
    signed = TOKENS._signer.sign(said.format(id=uuid.uuid4().hex)).decode()
    with pytest.raises(BadToken):
        TOKENS.read(signed)
