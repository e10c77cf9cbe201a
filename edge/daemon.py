"""The composition root: puts readers, recorder, courier and feedback together and runs them.

It starts with whatever is there and keeps running: no reader, no pcscd, no network, no hub and keys
that cannot be read are each a state that is shown and recovers by itself. It ends on SIGTERM or
SIGINT, or when a thread that must live has died, so that the service manager starts it anew.
"""

import logging
import signal
import threading
from collections.abc import Sequence
from typing import Final

from edge.actsocket import ActServer
from edge.certificate import Certificates
from edge.clock import SystemClock
from edge.config import Config, card_plan
from edge.couriers import Everybody, Told
from edge.couriers.mqtt import Courier
from edge.couriers.statement import Statement
from edge.couriers.usb import Sticks
from edge.enrol import IdentityError, Keys, load_identity
from edge.feedback import Feedback, Notice, Outcome, Standing
from edge.feedback.console import Console
from edge.feedback.fanout import Fanout
from edge.feedback.gpio import open_pins
from edge.feedback.reader import ReaderLamps
from edge.feedback.sound import Sound
from edge.kiosk import open_kiosk
from edge.kiosk.face import Face
from edge.readers import CardRead, CardUnreadable, ReaderEvent, Readers
from edge.readers.nfc import NfcReaders
from edge.readers.pcsc import PcscReaders
from edge.readers.wedge import WedgeReaders
from edge.recorder import Recorder
from edge.store import Owner, Retention
from protocol.identity import Enrolment
from protocol.topics import Broker

LOOK_FOR_ENROLMENT_S: Final = 1.0
WATCH_S: Final = 1.0

NO_IDENTITY: Final = "登记文件无法使用"
"""Beside Standing.NOT_ENROLLED: the device was enrolled, but cannot read as whom."""

log = logging.getLogger(__name__)


def outputs(config: Config) -> list[Feedback]:
    """Where outcomes are shown, as far as the configuration alone says."""
    section = config.feedback
    found: list[Feedback] = [Console()] if section.console else []
    if section.sound:
        found.append(Sound())
    if section.gpio.used and (pins := open_pins(section.gpio)) is not None:
        found.append(pins)
    return found


def inputs(config: Config) -> Sequence[Readers]:
    """The readers that the configuration names, not started; the desk station's as well.

    Raises ConfigError where it names a key that cannot be used.
    """
    section = config.readers
    cards = card_plan(config.cards)
    readers: list[Readers] = []
    if section.pcsc:
        readers.append(PcscReaders(read_timeout_ms=section.read_timeout_ms, cards=cards))
    if section.nfc:
        chips = [each.chip for each in section.nfc]
        readers.append(NfcReaders(chips, read_timeout_ms=section.read_timeout_ms, cards=cards))
    if section.wedge:
        readers.append(WedgeReaders([each.wedge for each in section.wedge]))
    return readers


class Daemon:
    """`shuaka-edge run`: give it a configuration, `run` it. Raises ConfigError as `inputs` does."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._data = config.edge.data
        card_plan(config.cards)
        self._stopping = threading.Event()
        self._trouble = ""
        self._drivers: Sequence[Readers] = ()

    def run(self) -> int:
        """Runs until told to stop; gives the exit status.

        Raises JournalBusyError and JournalNewerError at the start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        lamps = [ReaderLamps(self._signal)] if self._config.feedback.reader else []
        kiosk = open_kiosk(self._config)
        screens = [] if kiosk is None else [kiosk.face]
        feedback = Fanout([*outputs(self._config), *lamps, *screens])
        try:
            identity = self._wait_for_identity(feedback)
            return 0 if identity is None else self._record(*identity, feedback, screens)
        finally:
            feedback.stop()
            if kiosk is not None:
                kiosk.stop()

    def _wait_for_identity(self, feedback: Feedback) -> tuple[Enrolment, Keys] | None:
        """Shows red to every card until this edge knows who it is; None when stopped."""
        identity = self._look_for_identity(feedback)
        if identity is not None:
            return identity

        def refuse(event: ReaderEvent) -> None:
            if isinstance(event, CardRead | CardUnreadable):
                feedback.show(Notice(Outcome.NOT_ENROLLED, event.reader))

        readers = self._readers()
        for each in readers:
            each.start(refuse)
        try:
            while not self._stopping.wait(LOOK_FOR_ENROLMENT_S):
                identity = self._look_for_identity(feedback)
                if identity is not None:
                    return identity
        finally:
            for each in readers:
                each.stop()
        return None

    def _look_for_identity(self, feedback: Feedback) -> tuple[Enrolment, Keys] | None:
        """Who this edge is; where it is nobody, why is shown, and logged when that changes."""
        trouble = "run shuaka-edge enrol --hub URL --code CODE"
        detail = ""
        try:
            identity = load_identity(self._data)
        except IdentityError as error:
            identity, trouble, detail = None, str(error), NO_IDENTITY
        if identity is None:
            if trouble != self._trouble:
                log.warning("not enrolled: nothing is recorded; %s", trouble)
            self._trouble = trouble
            feedback.stand(Standing.NOT_ENROLLED, detail)
        return identity

    def _record(
        self, enrolment: Enrolment, keys: Keys, feedback: Feedback, screens: Sequence[Face]
    ) -> int:
        recorder = Recorder(
            self._data,
            Owner(enrolment.edge, enrolment.hub.seal),
            SystemClock(self._config.clock.trust),
            feedback,
            debounce_ms=self._config.readers.debounce_ms,
            read_timeout_ms=self._config.readers.read_timeout_ms,
            keep=Retention(self._config.journal.keep_days, self._config.journal.keep_entries),
        )
        broker = Broker.parse(self._config.mqtt.url or enrolment.mqtt_url)
        certificates = Certificates(self._data) if broker.tls else None
        courier = Courier(self._data, enrolment, keys, broker, recorder, certificates=certificates)
        statement = Statement(recorder.ask_state)
        listeners: list[Told] = [courier, statement]
        sticks = None
        if self._config.usb.mounts is not None:
            sticks = Sticks(
                self._data,
                enrolment,
                keys,
                self._config.usb.mounts,
                recorder,
                statement,
                courier.bring,
            )
            listeners.append(sticks)
        recorder.start(Everybody(listeners))
        courier.start()
        if sticks is not None:
            sticks.start()
        if certificates is not None:
            certificates.start()
        for screen in screens:
            screen.attach(recorder, courier)
        acts = ActServer(self._data, recorder, statement.ask)
        acts.start()
        readers = self._readers()
        for each in readers:
            each.start(recorder.reader_event)
        log.info("%s records; hub by way of %s:%d", enrolment.name, broker.host, broker.port)
        status = 0
        while not self._stopping.wait(WATCH_S):
            recorder.watch()
            readers_alive = all(each.alive() for each in readers)
            if not (recorder.alive() and courier.alive() and readers_alive):
                log.critical("a part of the daemon has ended; ending, to be started anew")
                status = 1
                break
        for each in readers:
            each.stop()
        if sticks is not None:
            sticks.stop()
        recorder.stop()
        acts.stop()
        courier.stop()
        if certificates is not None:
            certificates.stop()
        return status

    def _readers(self) -> Sequence[Readers]:
        self._drivers = inputs(self._config)
        return self._drivers

    def _signal(self, reader: str, outcome: Outcome) -> None:
        """Has the reader itself show `outcome`, if it can; a name belongs to one driver."""
        for each in self._drivers:
            if isinstance(each, PcscReaders):
                each.signal(reader, outcome)
