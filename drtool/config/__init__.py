"""Reads policy files strictly, and writes down what may stand in one."""
