"""Edges, sticks, hub, broker and clocks in one process, in virtual time, from a seed.

What runs is the product's own code: the recorder, the courier and its Sender, the debounce, the
exports to a stick, the wire's messages, the hub's reading of them, `accept` and its marks, the
dating of taps, and the statement of completeness. What is made here is what they stand on: clocks,
storage that keeps exactly what a crash leaves, a network and a broker that lose, double, delay,
reorder, replay, swap and forge. `python -m tests.simulation --help`.

A seed is a world, and a world is one device-year. Most worlds keep journals and database in
dictionaries; of every ten, one has the journal in the product's own store, one has the product's
own ingest on SQLite, and one signs with the real curve (see `WorldKind`).
"""
