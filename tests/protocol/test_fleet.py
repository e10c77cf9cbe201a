"""What keeps a device in the fleet, or lets it go: believed for its signature, and for its edge."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor
from protocol.errors import Reason, RemoteError
from protocol.fleet import Certificate, CertificateRequest, Command, NextKeys, Order
from protocol.identity import HubKeys, MessageType, OpeningKey, SigningKey

EDGE, OTHER = b"e" * 16, b"o" * 16
DEVICE, HUB, STRANGER = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
ASKED = CertificateRequest(EDGE, b"n" * 16, b"der")
GIVEN = Certificate(EDGE, b"n" * 16, b"der", b"ca")
NEXT = NextKeys(1, HubKeys(SigningKey.generate().public, OpeningKey.generate().public))
RETIRE = Order(EDGE, 5, Command.RETIRE)


def reason(call: Callable[[], object]) -> Reason:
    with pytest.raises(RemoteError) as refused:
        call()
    return refused.value.reason


def test_each_comes_out_as_it_went_in() -> None:
    asked, signed = CertificateRequest.parse(ASKED.seal(DEVICE))
    assert asked == ASKED
    signed.verify(DEVICE.public)
    assert Certificate.open(GIVEN.seal(HUB), HUB.public, ASKED) == GIVEN
    assert NextKeys.open(NEXT.seal(HUB), HUB.public) == NEXT
    assert Order.open(RETIRE.seal(HUB), HUB.public, EDGE) == RETIRE


def test_a_stranger_is_believed_nothing() -> None:
    _, signed = CertificateRequest.parse(ASKED.seal(STRANGER))
    assert reason(lambda: signed.verify(DEVICE.public)) is Reason.BAD_SIGNATURE
    for call in (
        lambda: Certificate.open(GIVEN.seal(STRANGER), HUB.public, ASKED),
        lambda: NextKeys.open(NEXT.seal(STRANGER), HUB.public),
        lambda: Order.open(RETIRE.seal(STRANGER), HUB.public, EDGE),
    ):
        assert reason(call) is Reason.BAD_SIGNATURE


def test_a_certificate_answers_one_request_alone() -> None:
    sent = GIVEN.seal(HUB)
    for other in (replace(ASKED, nonce=b"m" * 16), replace(ASKED, edge=OTHER)):
        assert reason(lambda: Certificate.open(sent, HUB.public, other)) is Reason.BAD_SIGNATURE  # noqa: B023


def test_an_order_is_for_its_edge_alone() -> None:
    sent = RETIRE.seal(HUB)
    assert reason(lambda: Order.open(sent, HUB.public, OTHER)) is Reason.WRONG_TOPIC


def test_a_command_of_a_later_version_is_read_and_left_to_the_edge() -> None:
    assert Order.open(replace(RETIRE, command=200).seal(HUB), HUB.public, EDGE).command == 200


def test_no_message_passes_for_another() -> None:
    for sent in (GIVEN.seal(HUB), NEXT.seal(HUB), RETIRE.seal(HUB)):
        wrong = [
            call
            for call in (
                lambda: CertificateRequest.parse(sent),  # noqa: B023
                lambda: Certificate.open(sent, HUB.public, ASKED),  # noqa: B023
                lambda: NextKeys.open(sent, HUB.public),  # noqa: B023
                lambda: Order.open(sent, HUB.public, EDGE),  # noqa: B023
            )
            if _refused(call)
        ]
        assert len(wrong) == 3


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except RemoteError as error:
        return error.reason is Reason.WRONG_TYPE
    return False


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (MessageType.CERTIFICATE_REQUEST, [EDGE, b"n" * 16, b""]),
        (MessageType.CERTIFICATE_REQUEST, [EDGE, b"n" * 16, bytes(2049)]),
        (MessageType.CERTIFICATE_REQUEST, [EDGE, b"n" * 15, b"der"]),
        (MessageType.CERTIFICATE, [EDGE, b"n" * 16, bytes(4097), b"ca"]),
        (MessageType.CERTIFICATE, [EDGE, b"n" * 16, b"der"]),
        (MessageType.HUB_KEYS, [-1, bytes(32), bytes(32)]),
        (MessageType.HUB_KEYS, [1, bytes(31), bytes(32)]),
        (MessageType.ORDER, [EDGE, 5, 256]),
        (MessageType.ORDER, [EDGE, -5, 1]),
    ],
)
def test_what_is_out_of_bounds_is_refused(message: MessageType, content: list[object]) -> None:
    sent = HUB.sign(message, cbor.encode(content))
    assert reason(lambda: _open(message, sent)) is Reason.MALFORMED


@given(st.sampled_from([*MessageType]), st.binary(max_size=200))
def test_whatever_is_signed_is_read_or_refused(message: MessageType, content: bytes) -> None:
    with contextlib.suppress(RemoteError):
        _open(message, HUB.sign(message, content))


def _open(message: MessageType, sent: bytes) -> object:
    match message:
        case MessageType.CERTIFICATE_REQUEST:
            return CertificateRequest.parse(sent)
        case MessageType.CERTIFICATE:
            return Certificate.open(sent, HUB.public, ASKED)
        case MessageType.HUB_KEYS:
            return NextKeys.open(sent, HUB.public)
        case _:
            return Order.open(sent, HUB.public, EDGE)
