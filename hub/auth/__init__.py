"""Who may ask: tokens, the sessions that begin with one, and the sub-tree that each may see."""
