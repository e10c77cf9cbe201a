"""A site per test, over each database."""

import pytest
from sqlalchemy import Engine

from tests.hub.site import Site


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site(engine)
