"""Couriers carry signed batches of the journal to the hub, and its receipts back."""
