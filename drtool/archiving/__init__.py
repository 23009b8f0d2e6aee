"""The verb that keeps the WAL: receive it as a stream, take it from archive_command, tell what is missing."""
