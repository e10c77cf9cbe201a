"""演练: a venue is tried before the evening, with virtual cards and real faults.

`run` is the whole of it, in the process of `shuaka-edge rehearse`; `child` is the daemon's own
parts, in a process that can be killed; `line` is the way to the broker, which can be cut; `ledger`
keeps outside of that process what was presented and lit, and says what became of it.
"""
