"""Orders for devices: to retire, at once and at each hello, until it is carried out.

A device that has retired is told again whenever it says hello: whoever put an older copy of its
storage into it would find it recording otherwise. A compromised one is told nothing.
"""

from collections.abc import Iterator, Mapping
from uuid import UUID

from sqlalchemy import Engine, and_, or_, select

from hub.domain.terms import DeviceStatus
from hub.store import schema as s
from hub.store.engine import reading
from protocol.fleet import Command, Order
from protocol.identity import SigningKey


class Orders:
    """Makes orders, and remembers whom it told."""

    def __init__(self, engine: Engine, key: SigningKey) -> None:
        self._engine = engine
        self._key = key
        self._told: set[tuple[bytes, int]] = set()

    def due(self, heard: Mapping[bytes, bool]) -> Iterator[tuple[bytes, bytes]]:
        """(edge, payload) for each device that is to be told now.

        `heard`: who spoke, and whether that was a hello.
        """
        d = s.devices.c
        hellos = {UUID(bytes=edge) for edge, is_hello in heard.items() if is_hello}
        with reading(self._engine) as conn:
            rows = conn.execute(
                select(d.public_id, d.retiring_ms, d.left_ms)
                .where(
                    or_(
                        and_(d.status == DeviceStatus.ACTIVE, d.retiring_ms.is_not(None)),
                        and_(d.status == DeviceStatus.RETIRED, d.public_id.in_(hellos)),
                    )
                )
                .order_by(d.id)
            ).all()
        told = set()
        for row in rows:
            edge = row.public_id.bytes
            issued_ms = row.left_ms if row.retiring_ms is None else row.retiring_ms
            told.add((edge, issued_ms))
            if row.public_id in hellos or (edge, issued_ms) not in self._told:
                yield edge, Order(edge, issued_ms, Command.RETIRE).seal(self._key)
        self._told = told
