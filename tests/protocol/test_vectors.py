"""The golden vectors, in both directions. They never change; see tests/vectors/README.md."""

import json

import pytest

from protocol.batch import Batch
from protocol.errors import RemoteError
from protocol.identity import MessageType, Signed
from protocol.journal import decode_entry, link
from protocol.sealing import open_sealed, subject_digest, unwrap_content_key
from tests.protocol import samples
from tests.protocol.samples import SAMPLES, VECTORS


def stored(name: str) -> dict[str, object]:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


def test_there_is_a_file_for_each_sample_and_a_sample_for_each_file() -> None:
    files = {path.stem for path in VECTORS.glob("*.json")}
    assert files == {"keys", "chain", *SAMPLES}


@pytest.mark.parametrize("name", SAMPLES)
def test_encoding_gives_exactly_these_bytes(name: str) -> None:
    sample = SAMPLES[name]
    assert sample.encode(sample.value).hex() == stored(name)["hex"]


@pytest.mark.parametrize("name", SAMPLES)
def test_decoding_gives_exactly_this_value(name: str) -> None:
    sample = SAMPLES[name]
    assert sample.decode(bytes.fromhex(str(stored(name)["hex"]))) == sample.value


@pytest.mark.parametrize("name", SAMPLES)
def test_the_value_is_written_down_as_it_is(name: str) -> None:
    sample = SAMPLES[name]
    assert samples.plain(sample.value) == stored(name)["value"]
    assert (sample.what, sample.rule) == (stored(name)["what"], stored(name)["rule"])


def test_keys_code_and_proof() -> None:
    assert samples.keys() == stored("keys")


def test_the_wrapped_key_opens() -> None:
    keys = stored("keys")
    wrapped = bytes.fromhex(str(keys["wrapped_key"]))
    opened = unwrap_content_key(wrapped, samples.HUB_SEAL, samples.EDGE, samples.EPOCH)
    assert opened.hex() == keys["content_key"]


def test_the_chain() -> None:
    chain = stored("chain")
    assert samples.chain() == chain
    batch = Batch.decode(bytes.fromhex(str(stored("batch")["hex"])))
    assert batch.previous.hex() == chain["start"]
    links = link(batch.first, batch.previous, batch.items)
    assert [[each.last, each.digest.hex()] for each in links] == chain["after"]


def test_the_journal_message_holds_the_batch_and_the_subject() -> None:
    parcel = SAMPLES["journal"].decode(bytes.fromhex(str(stored("journal")["hex"])))
    payload = Signed.parse(parcel.signed, MessageType.BATCH).verify(samples.EDGE_KEY.public)
    assert payload.hex() == stored("batch")["hex"]
    assert [each.hex() for each in parcel.subjects] == [stored("subject-uid")["hex"]]
    assert subject_digest(parcel.subjects[0]) == samples.TAP.subject


def test_the_message_with_actions_holds_both_subjects_of_one() -> None:
    parcel = SAMPLES["journal-actions"].decode(bytes.fromhex(str(stored("journal-actions")["hex"])))
    payload = Signed.parse(parcel.signed, MessageType.BATCH).verify(samples.EDGE_KEY.public)
    assert payload.hex() == stored("batch-actions")["hex"]
    sealed = [stored(name)["hex"] for name in ("subject-authoriser", "subject-member")]
    assert [each.hex() for each in parcel.subjects] == sealed
    digests = (samples.WITNESSED.subject, samples.WITNESSED.about)
    assert digests == tuple(subject_digest(each) for each in parcel.subjects)


def test_the_unknown_entry_is_not_readable_here() -> None:
    with pytest.raises(RemoteError, match="has 6 of 10 elements"):
        decode_entry(bytes.fromhex(str(stored("entry-unknown")["hex"])))


def test_the_sealed_roster_holds_the_content() -> None:
    opened = open_sealed(
        samples.EDGE_SEAL, samples.SEALED_ROSTER, samples.roster_info(samples.ROSTER)
    )
    assert opened.hex() == stored("roster-content")["hex"]
