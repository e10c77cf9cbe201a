"""What a worker process and its supervisor tell each other: one JSON object a line.

The task is the first line of the worker's standard input, and never on its command line, which
every user of the machine can read: a task may hold keys. The worker's own lines are its standard
output.

Supervisor and worker are the same version of the same package, so a line that does not decode is
a defect, for which the worker is ended and started anew.
"""

import msgspec

from edge.cards import Reading, Validity
from edge.cards.settings import UID_ONLY, Plan
from edge.readers import Down, Unreadable


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="is"):
    """Common to all lines; the tag says which one."""


class Listed(Line, frozen=True, tag="listed"):
    """The readers that there are; names as the bytes that PC/SC uses."""

    names: tuple[bytes, ...]


class Working(Line, frozen=True, tag="working"):
    """The reader can see cards; `counter` is the driver's count of comings and goings."""

    counter: int


class Trouble(Line, frozen=True, tag="trouble"):
    """The reader (or the listing) does not work for now; the worker goes on trying.

    `what` says it in plain English, for a log line or a technician.
    """

    down: Down
    what: str


class Alive(Line, frozen=True, tag="alive"):
    """Nothing happened; sent every few seconds."""


class Seen(Line, frozen=True, tag="seen"):
    """A card is there and is about to be touched: from here the read bound counts.

    `mark` is what the driver tells this card from the next by, where it has to be told itself.
    """

    generation: int
    boottime_ms: int
    mark: bytes = b""


class Read(Line, frozen=True, tag="read"):
    """The outcome of the last `Seen`: an identity."""

    generation: int
    scheme: str
    issuer: str
    value: str
    assurance: int
    valid: Validity | None = None

    @classmethod
    def of(cls, generation: int, reading: Reading) -> "Read":
        """What a profile made of the card."""
        who = reading.credential
        return cls(generation, who.scheme, who.issuer, who.value, reading.assurance, reading.valid)


class Unread(Line, frozen=True, tag="unread"):
    """The outcome of the last `Seen`: no identity; `detail` is for the log."""

    generation: int
    reason: Unreadable
    detail: str


class Gone(Line, frozen=True, tag="gone"):
    """The card of `generation` left; `counter` is the driver's count after that."""

    generation: int
    counter: int


class LampTrouble(Line, frozen=True, tag="lamp"):
    """The reader's own lamp does not do what it is told, or (no words) does so again.

    No card and no reading suffers by it.
    """

    what: str


AnyLine = Listed | Working | Trouble | Alive | Seen | Read | Unread | Gone | LampTrouble


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    """What a worker is for."""


class ListReaders(Task, frozen=True, tag="list"):
    """Tell which readers there are, for as long as the supervisor lives."""


class ServeReader(Task, frozen=True, tag="serve"):
    """Read the cards on one reader, as `cards` says; `name` is what its driver calls it.

    `budget_ms` bounds the worker's own retries of one card. `counter`, `card` and `mark`
    are what the worker's predecessor had last told, so that a card is neither read twice nor
    overlooked.
    """

    name: bytes
    budget_ms: int
    counter: int | None = None
    card: bool = False
    cards: Plan = UID_ONLY
    mark: bytes = b""


AnyTask = ListReaders | ServeReader


class Signal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", tag="signal"):
    """Comes after the task, any number of times: show this by the reader's own lamp and buzzer.

    `outcome` is the name of an edge.feedback.Outcome, `boottime_ms` when it was to be shown. A
    worker without a lamp takes no notice.
    """

    outcome: str
    boottime_ms: int
