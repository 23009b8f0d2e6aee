"""What a user would do, through the real program, on real servers: the promises of the issue."""
