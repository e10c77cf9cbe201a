"""The tests mirror the source; rig/ holds the real servers they run against."""
