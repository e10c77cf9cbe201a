"""Registers brought in from files: organisations, members, venues, placements, cards, meetings."""
