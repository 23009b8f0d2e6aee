"""A backup stores the whole cluster or nothing, what changed or nothing, and says what it saw."""
