"""The API as it describes itself, asked all that its description allows, and what it doesn't.

Nothing may answer with a 500, with a status that is not described, or with a body that breaks its
schema; with a valid token of each role, over the network. `--max-examples` bounds the time.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from hub.auth.tokens import new_token
from hub.authority import Authority
from hub.certificates import certify
from hub.context import Joining
from hub.devices import enrol
from hub.domain.terms import Role
from hub.keys import Keyring
from hub.store import schema as s
from tests.hub.site import Site, serving
from tests.hub.world import minutes, public_id, uid_of

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,ignored_auth,"
    "response_headers_conformance,response_schema_conformance,unsupported_method"
)
EXAMPLES = 12
THINGS = {"meeting": "会", "member": "李", "organisation": "甲", "venue": "礼堂", "device": "一号"}
"""What the path's parameters of these names are given, besides what is made up."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.value)
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_nothing_breaks_its_description(engine: Engine, tmp_path: Path, role: Role) -> None:
    keyring = Keyring.make(tmp_path)

    def answer(sign_key: bytes, seal_key: bytes, proof: bytes) -> bytes:
        keys = sign_key, seal_key
        return enrol(engine, keyring, "mqtt://localhost", keys, proof, minutes(0))

    joining = Joining(keyring.public().fingerprint(), "mqtt://localhost")
    authority = Authority.make(tmp_path, minutes(0))
    site = Site(
        engine,
        enrol=answer,
        joining=joining,
        certify=lambda asked: certify(engine, keyring, authority, asked, minutes(0)),
    )
    site.tap("李", minutes(-10))
    with engine.begin() as conn:
        stranger = site.world(conn).card(None, "04FEEDFACE1234")
    site.tap(None, minutes(-9), stranger)
    with engine.begin() as conn:
        card = conn.scalars(
            select(s.cards.c.public_id)
            .join(s.credentials, s.credentials.c.card_id == s.cards.c.id)
            .where(s.credentials.c.id == uid_of(site.world(conn), "李"))
        ).one()
        token = new_token(
            conn,
            "schemathesis",
            "甲",
            minutes(-1000),
            role=role,
            member_id=site.ids["李"] if role is Role.MEMBER else None,
        )
    # What exists: otherwise nearly every answer would be 404.
    (tmp_path / "schemathesis.toml").write_text(
        "[parameters]\n"
        + "".join(f'"path.{kind}" = "{public_id(name)}"\n' for kind, name in THINGS.items())
        + f'"path.card" = "{card}"\n'
        + f'"path.tap" = "{public_id("一号")}-{public_id("e").hex}-2"\n'
    )
    with serving(site.app) as (url, _):
        said = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{url}/api/v1/openapi.json",
                f"--header=Authorization: Bearer {token}",
                f"--checks={CHECKS}",
                f"--max-examples={EXAMPLES}",
                "--phases=examples,coverage,fuzzing",
                "--generation-database=none",
                "--seed=1",
                "--continue-on-failure",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
    assert said.returncode == 0, said.stdout[-20_000:] + said.stderr[-2000:]
