"""Trees of files, as drtool walks, reads, judges and places them."""
