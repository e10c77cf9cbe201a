"""How devices are: told in words, from what they stated, to those who may see them."""

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, update

from hub.fleet import SILENT_MS, Device, devices, history
from hub.store import schema as s
from hub.store.scope import EVERYTHING
from tests.hub.site import ZONE
from tests.hub.world import LONG_AGO, Entry, World, district, minutes

NOW = minutes(0)
UP = json.dumps([{"name": "ACR122U", "up": True, "since_boottime_ms": 0}])
DOWN = json.dumps([{"name": "ACR122U", "up": False, "since_boottime_ms": 0}])


@pytest.fixture
def world(engine: Engine) -> Iterator[World]:
    with engine.connect() as conn, conn.begin() as transaction:
        world = district(conn)
        world.epoch("e", "一号")
        yield world
        transaction.rollback()


def says(
    world: World,
    *,
    trusted: bool = True,
    wall_ms: int = NOW,
    received_ms: int = NOW,
    readers: str = UP,
    unreceipted: int | None = 0,
    head: int = 0,
) -> None:
    at = Entry(wall_ms - LONG_AGO, wall_ms, trusted)
    key = world.heartbeat("一号", "e", head, at, received_ms)
    world.conn.execute(
        update(s.heartbeats)
        .where(s.heartbeats.c.id == key)
        .values(readers=readers, unreceipted=unreceipted)
    )


def seen(world: World, now_ms: int = NOW) -> Device:
    [device] = devices(world.conn, world.ids["甲"], now_ms, ZONE)
    assert devices(world.conn, EVERYTHING, now_ms, ZONE, device.id) == [device]
    assert devices(world.conn, world.ids["区"], now_ms, ZONE) == [device]
    return device


def test_a_device_that_is_well(world: World) -> None:
    says(world)
    device = seen(world)
    assert device.troubles == ()
    assert device.venue is not None
    assert device.venue.name == "礼堂名"
    assert [(each.name, each.is_up) for each in device.readers] == [("ACR122U", True)]
    assert (device.last_contact_ms, device.through_ms, device.software) == (NOW, NOW, "test")
    assert devices(world.conn, world.ids["乙"], NOW, ZONE) == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"readers": "[]"}, "读卡器未连接"),
        ({"readers": DOWN}, "“ACR122U”未连接"),
        ({"readers": "?"}, "读卡器未连接"),
        ({"trusted": False}, "时钟未校准"),
        ({"unreceipted": 12}, "还有12条未上传"),
        ({"wall_ms": NOW + 61_000}, "时钟快了约2分钟"),
        ({"wall_ms": NOW - 600_000}, "时钟慢了约10分钟"),
        ({"head": 3}, "还有记录没有送到"),
    ],
)
def test_what_is_wrong_is_said(world: World, said: dict[str, int], words: str) -> None:
    says(world, **said)  # type: ignore[arg-type]
    [trouble] = seen(world).troubles
    assert words in trouble


def test_the_newest_statement_counts(world: World) -> None:
    says(world, readers=DOWN, unreceipted=5)
    says(world, wall_ms=NOW + 1000, received_ms=NOW + 1000)
    assert seen(world).troubles == ()


def test_silence(world: World) -> None:
    assert "还没有联系过" in seen(world).troubles[0]
    says(world)
    assert seen(world, NOW + SILENT_MS).troubles == ()
    [trouble] = seen(world, NOW + SILENT_MS + 1).troubles
    assert "设备静默" in trouble


def test_a_copied_card(world: World) -> None:
    world.epoch("f", "一号", opened=Entry(0, NOW - 1000, trusted=True))
    world.batch("f", 1, [Entry(0, NOW - 1000, trusted=True)], NOW)
    world.batch("e", 1, [Entry(0, NOW - 2000, trusted=True)], NOW)
    says(world, head=1)
    assert "分叉" in seen(world).troubles[0]


def test_waiting_for_its_code(world: World) -> None:
    world.conn.execute(update(s.devices).values(status="PENDING"))
    assert "重新生成" in seen(world).troubles[0]
    world.add(
        s.enrolment_codes,
        device_id=world.ids["一号"],
        secret_sha256=bytes(32),
        created_ms=NOW,
        expires_ms=NOW + 1,
    )
    assert "输入登记码" in seen(world).troubles[0]
    assert seen(world).code_expires_ms == NOW + 1
    assert "重新生成" in seen(world, NOW + 1).troubles[0]


def test_nowhere_and_where_it_was(world: World) -> None:
    world.conn.execute(update(s.placements).values(valid_to_ms=minutes(-10)))
    says(world)
    assert "不在任何会场" not in seen(world).name
    assert "没有登记在任何会场" in seen(world).troubles[0]
    assert seen(world).venue is None
    world.venue("乙厅", "乙")
    world.device("一号", "乙厅", since=minutes(-5))
    assert devices(world.conn, world.ids["甲"], NOW, ZONE) == []
    placed = history(world.conn, world.ids["乙"], world.ids["一号"])
    assert [(each.venue, each.to_ms) for each in placed] == [
        ("乙厅名", None),
        (None, minutes(-10)),
    ]
