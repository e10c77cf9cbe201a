"""What attendance means: pure functions over facts, with no clock, database or network."""
