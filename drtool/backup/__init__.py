"""Take a backup: read the source once, store what is new, and put the manifest last."""
