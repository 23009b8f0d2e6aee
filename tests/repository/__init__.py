"""The repository: keys, sealed objects, packs, tables, manifests, the log, and the second reader."""
