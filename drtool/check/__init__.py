"""Whether everything is ready: that backups and logs arrive now, and that nothing keeps them from it."""
