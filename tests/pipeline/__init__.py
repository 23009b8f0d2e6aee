"""What is always true of the bytes between source and repository."""
