"""Reading back: what verification finds, and what it must not confuse."""
