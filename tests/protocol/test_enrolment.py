"""The code that a technician types, and the answer that only its hub can give."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import (
    FINGERPRINT_BYTES,
    SECRET_BITS,
    Enrolment,
    EnrolmentCode,
    HubKeys,
    InvalidCodeError,
    MessageType,
    OpeningKey,
    SigningKey,
    enrolment_proof,
    key_id,
    open_enrolment,
)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
HUB_SIGN = SigningKey(bytes(range(32)))
HUB_SEAL = OpeningKey(bytes(range(32, 64)))
HUB = HubKeys(HUB_SIGN.public, HUB_SEAL.public)
EDGE_KEY = SigningKey(bytes(range(64, 96)))
SECRETS = st.integers(0, (1 << SECRET_BITS) - 1)
FINGERPRINTS = st.binary(min_size=FINGERPRINT_BYTES, max_size=FINGERPRINT_BYTES)
CODES = st.builds(EnrolmentCode, SECRETS, FINGERPRINTS)
CODE = EnrolmentCode(0x1_2345_6789_ABCD_EF01, HUB.fingerprint())
PROOF = b"p" * 32
ANSWER = Enrolment(
    b"e" * 16, "东门", EDGE_KEY.public, HUB, 1_700_000_000, "mqtt://hub.example:1883", PROOF
)


@given(CODES)
def test_round_trip(code: EnrolmentCode) -> None:
    text = str(code)
    groups = text.split("-")
    assert [len(each) for each in groups] == [5] * 6
    assert set(text) <= set(ALPHABET) | {"-"}
    assert EnrolmentCode.parse(text) == code


@given(CODES, st.data())
def test_typed_in_any_case_with_spaces_dashes_and_look_alikes(
    code: EnrolmentCode, data: st.DataObject
) -> None:
    typed = ""
    for character in str(code).replace("-", ""):
        alike = {"0": "0Oo", "1": "1IiLl"}.get(character, character + character.lower())
        typed += data.draw(st.sampled_from(alike))
        typed += data.draw(st.sampled_from(["", "", "-", " ", "\t", " - ", "\n"]))
    assert EnrolmentCode.parse("  " + typed + " ") == code


def test_what_a_chinese_input_method_types_is_read() -> None:
    wide = "".join(chr(ord(each) + 0xFEE0) for each in str(CODE).replace("-", ""))
    assert EnrolmentCode.parse(wide) == CODE
    for dash in "－–—‐−".replace("−", ""):
        assert EnrolmentCode.parse(str(CODE).replace("-", dash)) == CODE


@settings(max_examples=20)
@given(CODES)
def test_a_single_wrong_character_is_noticed_or_names_another_secret_or_hub(
    code: EnrolmentCode,
) -> None:
    """The check character catches 31 of 32; the rest the hub or the fingerprint refuses."""
    text = str(code).replace("-", "")
    slipped = 0
    for at, right in enumerate(text):
        for wrong in ALPHABET:
            if wrong != right:
                try:
                    other = EnrolmentCode.parse(text[:at] + wrong + text[at + 1 :])
                except InvalidCodeError:
                    continue
                slipped += 1
                assert at < len(text) - 1, "a wrong check character was taken"
                assert other != code
                assert (other.verifier(), other.fingerprint) != (code.verifier(), code.fingerprint)
    assert slipped <= 30 * 31 / 32 * 3


@given(CODES, st.data())
def test_a_missing_or_doubled_character_is_noticed(
    code: EnrolmentCode, data: st.DataObject
) -> None:
    text = str(code)
    at = data.draw(st.integers(0, len(text) - 1).filter(lambda each: text[each] != "-"))
    for typed in (text[:at] + text[at + 1 :], text[:at] + text[at] + text[at:], ""):
        with pytest.raises(InvalidCodeError) as caught:
            EnrolmentCode.parse(typed)
        assert "characters" in str(caught.value)


@given(st.text(max_size=60) | st.text(string.printable, min_size=30, max_size=40))
def test_any_text_is_a_code_or_an_invalid_one(text: str) -> None:
    try:
        code = EnrolmentCode.parse(text)
    except InvalidCodeError:
        return
    assert EnrolmentCode.parse(str(code)) == code


@pytest.mark.parametrize("character", ["U", "u", "_", "é", "Ｕ", "全"])
def test_characters_that_no_code_has_are_named(character: str) -> None:
    text = character + str(CODE)[1:]
    with pytest.raises(InvalidCodeError, match="which no code has"):
        EnrolmentCode.parse(text)


def test_the_secret_does_not_show() -> None:
    assert str(CODE.secret) not in repr(CODE)
    assert f"{CODE.secret:x}" not in repr(CODE).lower()
    assert repr(CODE) == "EnrolmentCode(…)"


@pytest.mark.parametrize("secret", [-1, 1 << SECRET_BITS])
def test_a_secret_has_its_size(secret: int) -> None:
    with pytest.raises(LocalError):
        EnrolmentCode(secret, bytes(FINGERPRINT_BYTES))


def test_the_proof_depends_on_everything_in_it() -> None:
    verifier, sign, seal, fingerprint = (bytes([n]) * 32 for n in range(4))
    proof = enrolment_proof(verifier, sign, seal, fingerprint[:10])
    assert len(proof) == 32
    other = b"x" * 32
    assert len({
        proof,
        enrolment_proof(other, sign, seal, fingerprint[:10]),
        enrolment_proof(verifier, other, seal, fingerprint[:10]),
        enrolment_proof(verifier, sign, other, fingerprint[:10]),
        enrolment_proof(verifier, seal, sign, fingerprint[:10]),
        enrolment_proof(verifier, sign, seal, other[:10]),
    }) == 6  # fmt: skip


def answer(enrolment: Enrolment = ANSWER, key: SigningKey = HUB_SIGN) -> bytes:
    return key.sign(MessageType.ENROLMENT, enrolment.encode())


def test_the_right_answer_is_taken() -> None:
    assert open_enrolment(answer(), CODE, EDGE_KEY.public, PROOF) == ANSWER


def refused(
    data: bytes,
    code: EnrolmentCode = CODE,
    edge: bytes = EDGE_KEY.public,
    proof: bytes = PROOF,
) -> Reason:
    with pytest.raises(RemoteError) as caught:
        open_enrolment(data, code, edge, proof)
    return caught.value.reason


def test_a_foreign_hub_is_refused() -> None:
    sign, seal = SigningKey(b"s" * 32), OpeningKey(b"t" * 32)
    for hub in (
        HubKeys(sign.public, seal.public),
        HubKeys(HUB.sign, seal.public),
        HubKeys(sign.public, HUB.seal),
        HubKeys(HUB.seal, HUB.sign),
    ):
        enrolment = Enrolment(b"e" * 16, "", EDGE_KEY.public, hub, 1, "mqtt://x", PROOF)
        assert refused(answer(enrolment, sign)) is Reason.BAD_SIGNATURE
        assert refused(answer(enrolment, HUB_SIGN)) is Reason.BAD_SIGNATURE
    # it claims the right keys and does not have them
    assert refused(answer(ANSWER, sign)) is Reason.BAD_SIGNATURE


def test_the_answer_to_another_edge_is_refused() -> None:
    assert refused(answer(), edge=SigningKey(b"o" * 32).public) is Reason.BAD_SIGNATURE


def test_an_answer_to_an_earlier_request_is_refused() -> None:
    assert refused(answer(), proof=b"q" * 32) is Reason.BAD_SIGNATURE


def test_another_signed_message_is_no_answer() -> None:
    data = HUB_SIGN.sign(MessageType.RECEIPT, ANSWER.encode())
    assert refused(data) is Reason.WRONG_TYPE


@settings(max_examples=200)
@given(st.data())
def test_no_bit_of_the_answer_can_change(data: st.DataObject) -> None:
    changed = bytearray(answer())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(bytes(changed))


@given(st.binary(max_size=300))
def test_random_bytes_are_no_answer(data: bytes) -> None:
    refused(data)
    assert refused(HUB_SIGN.sign(MessageType.ENROLMENT, data)) is Reason.MALFORMED


def test_keys_round_trip_and_are_named_by_their_hash() -> None:
    for kind in (SigningKey, OpeningKey):
        key = kind.generate()
        again = kind(key.raw())
        assert again.public == key.public
        assert again.public_id == key_id(key.public)
        assert kind.generate().public != key.public
