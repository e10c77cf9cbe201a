"""What is wrong with this device, in plain words, and what to do about it.

Looks at each thing the way of a tap needs, by itself and without the daemon; changes nothing.
"""

import errno
import os
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.certificate import CertificateError, Certificates, Held
from edge.clock import SystemClock
from edge.config import Config, ConfigError, card_plan
from edge.enrol import KEYS_FILE, IdentityError, Keys, load_hub_url, load_identity
from edge.readers.nfc import TAKEN, NfcReaders
from edge.readers.pcsc import PcscReaders
from edge.readers.supervised import STARTING
from edge.readers.wedge import explained, open_device
from edge.store import DAMAGED, FILE_NAME, FORMER, JournalError, JournalReader, is_recording
from protocol.topics import Broker

LOOK_FOR_READERS_S: Final = 4.0
HUNG_S: Final = 12.0
"""A service that hangs is told from one that is not there only after a while."""
SOON_MS: Final = 600_000
"""An entry that has had no receipt for longer than this is not simply on its way."""
DAY_MS: Final = 24 * 3600 * 1000
LISTEN_S: Final = 0.5
ENOUGH_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` is empty where there is nothing to do."""

    good: bool
    what: str
    advice: str = ""


def examine(config: Config) -> list[Finding]:
    """Everything, in the order of a tap's way."""
    data = config.edge.data
    findings: list[Finding] = []
    if config.readers.pcsc:
        findings += _readers()
    if config.readers.nfc:
        findings += _chips(config)
    findings += _wedges(config)
    findings += _cards(config)
    findings += _clock(config)
    try:
        for part in (_storage(data), _journal(data), _enrolment(config), _daemon(data)):
            findings.extend(part)
    except OSError as error:
        findings.append(
            Finding(
                good=False,
                what=f"{error.filename or data}: {error.strerror}",
                advice="Run this as the service's user or as root.",
            )
        )
    return findings


def _daemon(data: Path) -> Iterator[Finding]:
    if is_recording(data):
        yield Finding(good=True, what="shuaka-edge is running and records")
    elif not _is_enrolled(data):
        yield Finding(
            good=False,
            what="shuaka-edge is not recording: it cannot before it is enrolled",
            advice="One that runs waits for that, and then begins by itself.",
        )
    else:
        yield Finding(
            good=False,
            what="shuaka-edge is not recording",
            advice="Start it with `systemctl start shuaka-edge`; why it ended or waits says"
            " `journalctl -u shuaka-edge -n 50`.",
        )


def _is_enrolled(data: Path) -> bool:
    try:
        return load_identity(data) is not None
    except IdentityError:
        return False


def _readers() -> Iterator[Finding]:
    readers = PcscReaders()
    unheard = readers.health().trouble
    readers.start(lambda _event: None)
    began = time.monotonic()
    while not (health := readers.health()).working or any(
        each.trouble == STARTING for each in health.readers
    ):
        patience = HUNG_S if health.trouble == unheard else LOOK_FOR_READERS_S
        if time.monotonic() > began + patience:
            break
        time.sleep(0.1)
    readers.stop()
    for each in health.readers:
        if each.up:
            yield Finding(good=True, what=f"reader: {each.reader}")
        else:
            yield Finding(
                good=False,
                what=f"reader {each.reader}: {each.trouble or 'does not answer'}",
                advice="Unplug it, wait a moment, plug it in again.",
            )
    if health.trouble and not health.readers:
        yield Finding(
            good=False,
            what=f"readers: {health.trouble}",
            advice="Plug the reader in, try another port or cable, and see that the service runs "
            "(`systemctl start pcscd.socket`). An ACR122U that stays unseen may be held by the "
            "kernel's pn533 modules.",
        )


def _chips(config: Config) -> Iterator[Finding]:
    readers = NfcReaders([each.chip for each in config.readers.nfc])
    readers.start(lambda _event: None)
    deadline = time.monotonic() + HUNG_S
    chips = readers.health().readers
    while any(each.trouble == STARTING for each in chips) and time.monotonic() < deadline:
        time.sleep(0.1)
        chips = readers.health().readers
    readers.stop()
    for each in chips:
        if each.up:
            yield Finding(good=True, what=f"reader: {each.reader}")
        elif TAKEN in each.trouble and is_recording(config.edge.data):
            yield Finding(good=True, what=f"reader: {each.reader}, which shuaka-edge has")
        else:
            yield Finding(
                good=False,
                what=f"reader {each.reader}: {each.trouble}",
                advice="Its board, its wires, and what is set as readers.nfc.device.",
            )


def _wedges(config: Config) -> Iterator[Finding]:
    for each in config.readers.wedge:
        wedge = each.wedge
        try:
            os.close(open_device(wedge.device))
        except OSError as error:
            if error.errno == errno.EBUSY and is_recording(config.edge.data):
                yield Finding(good=True, what=f"reader: {wedge.reader}, which shuaka-edge has")
                continue
            yield Finding(
                good=False,
                what=f"reader {wedge.reader}: {explained(error, wedge.device)[1]}",
                advice="Its cable, what is set as readers.wedge.device, and whether the service's"
                " user is in the group input (`id shuaka-edge`).",
            )
        else:
            yield Finding(good=True, what=f"reader: {wedge.reader}")


def _cards(config: Config) -> Iterator[Finding]:
    try:
        card_plan(config.cards)
    except ConfigError as error:
        yield Finding(
            good=False, what=f"cards: {error}", advice="Until then shuaka-edge does not start."
        )
    else:
        yield Finding(good=True, what=f"cards are read by {', '.join(config.cards.profiles)}")


def _clock(config: Config) -> Iterator[Finding]:
    if SystemClock(config.clock.trust).trusted():
        yield Finding(good=True, what="clock: trusted")
    else:
        yield Finding(
            good=False,
            what="clock: not synchronised, so taps get an exact time only later",
            advice="Connect the network (time comes by NTP) or fit a hardware clock. Taps are "
            "recorded all the same.",
        )


def _storage(data: Path) -> Iterator[Finding]:
    if data.exists() and not data.is_dir():
        yield Finding(
            good=False,
            what=f"{data}: is no folder",
            advice="Move it away, or name another folder as edge.data.",
        )
        return
    if not data.is_dir():
        yield Finding(
            good=False,
            what=f"{data}: there is no such folder yet",
            advice="`shuaka-edge enrol` creates it.",
        )
        return
    if not os.access(data, os.W_OK):
        yield Finding(
            good=False,
            what=f"{data}: cannot be written by this user",
            advice="Run as the service's user; see whether the card is mounted read-only.",
        )
    free = shutil.disk_usage(data).free
    if free < ENOUGH_BYTES:
        yield Finding(
            good=False,
            what=f"{data}: only {free // 1024} KiB are free",
            advice="Make room: a full disk cannot record a tap.",
        )
    else:
        yield Finding(good=True, what=f"storage: {free // 1024 // 1024} MiB free")
    for aside in sorted(data.glob(f"{FILE_NAME}.{FORMER}-*[0-9]")):
        yield Finding(
            good=False,
            what=f"{aside.name}: the journal of this device's former enrolment was set aside",
            advice="Keep it: it may hold taps that the hub never got. Tell whoever runs the hub.",
        )
    for aside in sorted(data.glob(f"{FILE_NAME}.{DAMAGED}-*[0-9]")):
        yield Finding(
            good=False,
            what=f"{aside.name}: a damaged journal was set aside",
            advice="What could be read of it was taken over; what is missing is stated to the hub. "
            "Keep the file, and exchange the storage card soon.",
        )


def _journal(data: Path) -> Iterator[Finding]:
    if not (data / FILE_NAME).exists():
        yield Finding(good=True, what="journal: none yet")
        return
    try:
        with closing(JournalReader(data)) as reader:
            problems = list(reader.problems())
            waiting = sum(e.head - max(e.released, e.first - 1) for e in reader.epochs())
            oldest = reader.oldest_waiting()
            alarm = reader.alarm()
    except JournalError as error:
        yield Finding(good=False, what=f"journal: {error}", advice="Keep the file.")
        return
    if problems:
        yield Finding(
            good=False,
            what=f"journal: {len(problems)} problem(s), the first: {problems[0]}",
            advice="See `shuaka-edge journal verify`; keep the file.",
        )
    if alarm:
        yield Finding(
            good=False,
            what=f"journal and hub differ: a receipt was not followed ({alarm})",
            advice="Everything is kept. Was this storage copied, or restored from a backup? Tell "
            "whoever runs the hub.",
        )
    told = f"journal: {waiting} entries not yet received by the hub"
    age_ms = 0
    if oldest is not None:
        clock = SystemClock()
        boot, at_ms = oldest
        # What was recorded before this boot is at least as old as it.
        age_ms = clock.boottime_ms() - (at_ms if boot == clock.boot_id() else 0)
    if age_ms > SOON_MS:
        yield Finding(
            good=False,
            what=f"{told}, the oldest for {age_ms // 60_000} minutes",
            advice="They are kept. See that the service runs, and what it says of broker and hub "
            "(`journalctl -u shuaka-edge`); ask whether the hub runs and has this device active.",
        )
    else:
        yield Finding(good=True, what=told)


def _enrolment(config: Config) -> Iterator[Finding]:
    data = config.edge.data
    try:
        identity = load_identity(data)
        if identity is None:
            if (data / KEYS_FILE).exists():
                Keys.load(data)
            yield Finding(
                good=False,
                what="not enrolled: nothing is recorded",
                advice="Get a code with `shuaka-hub device add NAME --venue V`, then run "
                "`shuaka-edge enrol --hub URL --code CODE`.",
            )
            return
    except IdentityError as error:
        yield Finding(good=False, what=str(error), advice="Until then nothing is recorded.")
        return
    enrolment, _ = identity
    if (data / KEYS_FILE).stat().st_mode & 0o077:
        yield Finding(
            good=False,
            what=f"{data / KEYS_FILE}: other users can read the keys of this device",
            advice=f"chmod 600 {data / KEYS_FILE}",
        )
    yield Finding(good=True, what=f"enrolled as {enrolment.name}")
    broker = Broker.parse(config.mqtt.url or enrolment.mqtt_url)
    if broker.tls:
        yield from _certificate(config)
    yield from _broker(config, broker)


def _certificate(config: Config) -> Iterator[Finding]:
    data = config.edge.data
    advice = "A running shuaka-edge asks the hub by itself; by hand: `shuaka-edge certificate`."
    try:
        held = Held.load(data)
    except CertificateError as error:
        yield Finding(good=False, what=f"certificate: {error}", advice=advice)
        return
    if held is None:
        where = load_hub_url(data) or "a hub whose address is not known"
        yield Finding(
            good=False, what=f"no certificate for the broker yet, from {where}", advice=advice
        )
        return
    clock = SystemClock(config.clock.trust)
    days = (held.ends_ms - clock.wall_ms()) // DAY_MS
    if not clock.trusted():
        yield Finding(good=True, what="certificate for the broker: there, its days not known")
    elif held.is_due(clock.wall_ms()):
        yield Finding(
            good=False,
            what=f"certificate for the broker: {days} days left, and not renewed",
            advice=f"Can this device reach {load_hub_url(data)}? {advice}",
        )
    else:
        yield Finding(good=True, what=f"certificate for the broker: {days} days left")


def _broker(config: Config, broker: Broker) -> Iterator[Finding]:
    where = f"broker {broker.host}:{broker.port}"
    try:
        with socket.create_connection((broker.host, broker.port), timeout=5) as plain:
            if broker.tls:
                _greet(plain, config.edge.data, broker.host)
    except CertificateError:
        return  # told already
    except ssl.SSLError as error:
        yield Finding(
            good=False,
            what=f"{where}: TLS fails: {error.reason or error}",
            advice="A running shuaka-edge then asks the hub for another certificate. Is the name"
            " right, and is this device still active at the hub?",
        )
    except OSError as error:
        yield Finding(
            good=False,
            what=f"{where} cannot be reached: {error}",
            advice="Taps are kept here and sent once it can. Look at cable, Wi-Fi and firewall.",
        )
    else:
        yield Finding(good=True, what=f"{where} answers")


def _greet(plain: socket.socket, data: Path, host: str) -> None:
    """A handshake; a broker that does not take the certificate says so only after it."""
    with Certificates(data).context(host).wrap_socket(plain) as wrapped:
        wrapped.settimeout(LISTEN_S)
        with suppress(TimeoutError):
            if not wrapped.recv(1):
                raise ConnectionError("it hangs up")
