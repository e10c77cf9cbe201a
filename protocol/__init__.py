"""What edge and hub agree on: entries, batches, receipts, delivery, time, keys.

Pure: bytes and values in, bytes and values out. No I/O, no clock, no thread; where randomness is
needed the caller brings it, except inside HPKE, which makes its own ephemeral key.
"""
