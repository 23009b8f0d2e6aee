"""Real servers on loopback, for tests: started in temporary places, always stopped by their pid."""
