"""The verb restore: bring one source back to one moment, in a new place."""
