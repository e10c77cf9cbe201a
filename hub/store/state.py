"""The hub's own row: which generation of the hub this is, and how often `serve` has started.

A generation begins with `shuaka-hub init` and again whenever an older backup is restored; devices
compare it with the one they know, so it only grows. A session begins with each start of `serve`.
"""

from sqlalchemy import Connection, insert, select, update

from hub.store.schema import hub_state


def begin_generation(conn: Connection, now_ms: int) -> int:
    """Begin a new generation: the Unix second of `now_ms`, or one above the last if that is more.

    The caller's transaction must be a write transaction.
    """
    last = generation(conn)
    if last is None:
        begun = now_ms // 1000
        conn.execute(insert(hub_state).values(id=1, generation=begun, session=0))
    else:
        begun = max(last + 1, now_ms // 1000)
        conn.execute(update(hub_state).values(generation=begun))
    return begun


def generation(conn: Connection) -> int | None:
    """The generation that is running, or None if the hub was never initialised."""
    return conn.scalar(select(hub_state.c.generation))


def begin_session(conn: Connection) -> int:
    """Count one start of `serve` and give its number.

    Raises LookupError if the hub was never initialised.
    """
    session: int | None = conn.scalar(
        update(hub_state).values(session=hub_state.c.session + 1).returning(hub_state.c.session)
    )
    if session is None:
        raise LookupError("this hub was never initialised: run shuaka-hub init")
    return session
