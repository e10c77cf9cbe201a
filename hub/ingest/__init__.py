"""From what arrives to facts, and receipts for what is committed."""
