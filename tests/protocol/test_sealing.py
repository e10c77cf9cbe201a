"""Only the hub reads a subject, only in its place, and its length tells nothing."""

import string

import cbor2
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from protocol.credential import (
    MAX_FIELD_CHARS,
    MEMBER_SCHEME,
    UID_SCHEME,
    Credential,
    InvalidCredentialError,
    member_credential,
    uid_credential,
)
from protocol.errors import LocalError, Reason, RemoteError
from protocol.identity import OpeningKey
from protocol.sealing import (
    MAX_SEALED_BYTES,
    NONCE_BYTES,
    PAD_TO,
    WRAPPED_KEY_BYTES,
    Place,
    SubjectBox,
    unwrap_content_key,
    wrap_content_key,
)

KEY = bytes(range(32))
EDGE, EPOCH = b"e" * 16, b"p" * 16
NONCE = bytes(12)
SEQS = st.integers(1, 1 << 62)
KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=12, max_size=12)
IDS = st.binary(min_size=16, max_size=16)
HUB = OpeningKey(bytes(range(64, 96)))
TEXT = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])


def is_a_card(uid: bytes) -> bool:
    try:
        uid_credential(uid)
    except InvalidCredentialError:
        return False
    return True


UIDS = (
    st.sampled_from([4, 7, 8, 10])
    .flatmap(lambda size: st.binary(min_size=size, max_size=size))
    .filter(is_a_card)
    .map(uid_credential)
)
OTHERS = st.builds(
    Credential,
    st.text(TEXT, min_size=1, max_size=MAX_FIELD_CHARS).filter(
        lambda each: each not in {UID_SCHEME, MEMBER_SCHEME}
    ),
    st.text(TEXT, max_size=MAX_FIELD_CHARS),
    st.text(TEXT, min_size=1, max_size=MAX_FIELD_CHARS),
)


PLACES = st.sampled_from(Place)
CODES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=64)


@given(KEYS, IDS, IDS, SEQS, NONCES, UIDS | OTHERS | CODES.map(member_credential), PLACES)
def test_what_was_sealed_is_what_is_opened(
    key: bytes,
    edge: bytes,
    epoch: bytes,
    seq: int,
    nonce: bytes,
    credential: Credential,
    place: Place,
) -> None:
    sealed = SubjectBox(key, edge, epoch).seal(seq, credential, nonce, place)
    assert sealed[:NONCE_BYTES] == nonce
    assert len(sealed) <= MAX_SEALED_BYTES
    assert SubjectBox(key, edge, epoch).open(seq, sealed, place) == credential


@given(SEQS, UIDS, CODES)
def test_card_and_member_of_an_action_never_stand_in_for_one_another(
    seq: int, card: Credential, code: str
) -> None:
    box = SubjectBox(KEY, EDGE, EPOCH)
    refused(box, seq, box.seal(seq, member_credential(code), NONCE, Place.ABOUT))
    with pytest.raises(RemoteError):
        box.open(seq, box.seal(seq, card, NONCE), Place.ABOUT)


def test_the_places_are_bound_as_the_document_says() -> None:
    """With the same nonce only the associated data differ, and with them the tags."""
    card = Credential("uid", "", "04A1B2C3")
    for place, bound_to in ((Place.CARD, [EDGE, EPOCH, 7]), (Place.ABOUT, [EDGE, EPOCH, 7, 1])):
        plain = cbor2.dumps(["uid", "", "04A1B2C3"])
        sealed = ChaCha20Poly1305(KEY).encrypt(
            NONCE, plain + bytes(-len(plain) % PAD_TO), cbor2.dumps(bound_to)
        )
        assert SubjectBox(KEY, EDGE, EPOCH).seal(7, card, NONCE, place) == NONCE + sealed


@given(CODES.filter(lambda code: len(code.encode()) <= 50))
def test_every_members_code_has_the_same_length_when_sealed(code: str) -> None:
    sealed = SubjectBox(KEY, EDGE, EPOCH).seal(1, member_credential(code), NONCE, Place.ABOUT)
    assert len(sealed) == NONCE_BYTES + PAD_TO + 16


@pytest.mark.parametrize("code", ["", "a b", "a\t", "\x00", "a\n", "\u3000", "\udcff", "x" * 65])
def test_what_no_register_has_as_a_code_is_no_member(code: str) -> None:
    with pytest.raises(InvalidCredentialError, match="member's code"):
        member_credential(code)
    with pytest.raises(InvalidCredentialError, match="no issuer"):
        Credential("member", "somebody", "M-1")


@given(UIDS)
def test_every_cards_number_has_the_same_length_when_sealed(credential: Credential) -> None:
    sealed = SubjectBox(KEY, EDGE, EPOCH).seal(1, credential, NONCE)
    assert len(sealed) == NONCE_BYTES + PAD_TO + 16


NUMBERS = st.text(string.ascii_uppercase + string.digits, min_size=1, max_size=30)


@given(st.sampled_from(["cn-id", "transit", "emv-pan"]), st.sampled_from(["", "330000"]), NUMBERS)
def test_so_has_every_chip_number(scheme: str, issuer: str, value: str) -> None:
    sealed = SubjectBox(KEY, EDGE, EPOCH).seal(1, Credential(scheme, issuer, value), NONCE)
    assert len(sealed) == NONCE_BYTES + PAD_TO + 16


def refused(box: SubjectBox, seq: int, sealed: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        box.open(seq, sealed)
    assert caught.value.reason is Reason.MALFORMED


@given(SEQS, SEQS, KEYS, IDS, IDS, UIDS)
def test_elsewhere_it_never_opens(
    seq: int, other_seq: int, other_key: bytes, edge: bytes, epoch: bytes, credential: Credential
) -> None:
    sealed = SubjectBox(KEY, EDGE, EPOCH).seal(seq, credential, NONCE)
    assume(other_seq != seq and other_key != KEY and edge != EDGE and epoch != EPOCH)
    refused(SubjectBox(KEY, EDGE, EPOCH), other_seq, sealed)
    refused(SubjectBox(other_key, EDGE, EPOCH), seq, sealed)
    refused(SubjectBox(KEY, edge, EPOCH), seq, sealed)
    refused(SubjectBox(KEY, EDGE, epoch), seq, sealed)
    refused(SubjectBox(KEY, EPOCH, EDGE), seq, sealed)


@settings(max_examples=200)
@given(UIDS, st.data())
def test_no_bit_of_it_can_change(credential: Credential, data: st.DataObject) -> None:
    sealed = bytearray(SubjectBox(KEY, EDGE, EPOCH).seal(3, credential, NONCE))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refused(SubjectBox(KEY, EDGE, EPOCH), 3, bytes(sealed))


@given(st.binary(max_size=200))
def test_random_bytes_do_not_open(sealed: bytes) -> None:
    refused(SubjectBox(KEY, EDGE, EPOCH), 1, sealed)


@pytest.mark.parametrize(
    "plain",
    [
        b"", bytes(64), b"\x81" * 64, b"\xff", cbor2.dumps(["uid", "", "zz"]),
        cbor2.dumps(["uid", "someone", "04A1B2C3"]), cbor2.dumps(["uid", "", "08A1B2C3"]),
        cbor2.dumps(["", "", "1"]), cbor2.dumps(["x", "", "1" * 65]), cbor2.dumps(["x", "", 1]),
        cbor2.dumps(["x", ""]), cbor2.dumps({"x": 1}), cbor2.dumps(["x", "", "a\x00"]),
    ],
)  # fmt: skip
def test_a_sealed_nonsense_is_refused_with_its_reason(plain: bytes) -> None:
    bound_to = cbor2.dumps([EDGE, EPOCH, 1])
    sealed = NONCE + ChaCha20Poly1305(KEY).encrypt(NONCE, plain, bound_to)
    refused(SubjectBox(KEY, EDGE, EPOCH), 1, sealed)


def test_what_a_later_version_appends_to_a_subject_is_ignored() -> None:
    plain = cbor2.dumps(["uid", "", "04A1B2C3", "later"])
    bound_to = cbor2.dumps([EDGE, EPOCH, 1])
    sealed = NONCE + ChaCha20Poly1305(KEY).encrypt(NONCE, plain + bytes(20), bound_to)
    assert SubjectBox(KEY, EDGE, EPOCH).open(1, sealed) == Credential("uid", "", "04A1B2C3")


@pytest.mark.parametrize("size", [0, 11, 13])
def test_a_nonce_has_its_length(size: int) -> None:
    with pytest.raises(LocalError):
        SubjectBox(KEY, EDGE, EPOCH).seal(1, Credential("uid", "", "04A1B2C3"), bytes(size))


@given(KEYS, IDS, IDS)
def test_a_content_key_opens_for_its_hub_edge_and_epoch_alone(
    key: bytes, edge: bytes, epoch: bytes
) -> None:
    wrapped = wrap_content_key(key, HUB.public, edge, epoch)
    assert len(wrapped) == WRAPPED_KEY_BYTES
    assert unwrap_content_key(wrapped, HUB, edge, epoch) == key
    assert wrap_content_key(key, HUB.public, edge, epoch) != wrapped
    other = OpeningKey(bytes(32))
    assume(edge != epoch)
    for opener, e, p in ((other, edge, epoch), (HUB, epoch, edge), (HUB, edge, bytes(15) + b"!")):
        with pytest.raises(RemoteError) as caught:
            unwrap_content_key(wrapped, opener, e, p)
        assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=120))
def test_random_bytes_are_no_wrapped_key(wrapped: bytes) -> None:
    with pytest.raises(RemoteError):
        unwrap_content_key(wrapped, HUB, EDGE, EPOCH)


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(RemoteError):
        unwrap_content_key(point + bytes(48), HUB, EDGE, EPOCH)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_wrapped_key_of_another_size_is_refused(size: int) -> None:
    wrapped = wrap_content_key(bytes(size), HUB.public, EDGE, EPOCH)
    with pytest.raises(RemoteError):
        unwrap_content_key(wrapped, HUB, EDGE, EPOCH)
