"""No deadlines: a busy machine is slow, and what must be quick says so in its own test."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
