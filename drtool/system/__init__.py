"""Time, processes and durable files: the only room that reads a clock, sleeps, starts and renames."""
