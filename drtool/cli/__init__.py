"""The front door: reads the command line, calls one function in wiring/, prints what it returns."""
