"""Where bytes are kept by key: in memory, in a directory, in an object store."""
