"""Of a card that is bound to nobody no answer of the hub tells more than the last four characters.

Every page, every answer of the API and every file that can be got, found in the route table.
"""

import re

import pytest

from hub.domain.terms import Role
from tests.hub.test_routes import CLOSED, STREAMS, Ground, Route, ground

__all__ = ["ground"]

ALL_OF_A_NUMBER = re.compile(r"0BAD[0-9A-F]{6}", re.IGNORECASE)
"""The strangers' cards of `tests.hub.test_routes`."""

GETS = [each for each in CLOSED if each.method == "GET" and not STREAMS.search(each.path)]


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_nowhere_is_a_stranger_s_card(ground: Ground) -> None:
    client = ground.client("区", Role.OPERATOR)
    answered = 0
    told: list[Route] = []
    last_four = set()
    for route in GETS:
        # A file that is not compressed.
        query = {"format": "csv"} if route.path.endswith("/file") else {}
        response = ground.request(client, route, ground.things["甲"], **query)
        answered += response.status_code == 200
        if ALL_OF_A_NUMBER.search(response.text):
            told.append(route)
        if f"{ord('甲'):06X}"[-4:] in response.text:
            last_four.add(route.path)
    assert told == []
    assert answered > len(GETS) // 2
    assert {"/taps", "/taps/{tap}", "/api/v1/taps", "/api/v1/taps/{tap}"} <= last_four
