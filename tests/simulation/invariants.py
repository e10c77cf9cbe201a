"""What must always hold, and the exception where it does not."""


class Broken(AssertionError):  # noqa: N818 - it reads as what it says
    """An invariant does not hold."""


def check(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)
