"""What drtool protects: one room for each kind of source."""
