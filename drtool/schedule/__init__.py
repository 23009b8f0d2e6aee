"""When work is due, and the process that does it: jobs, and receivers that always run."""
