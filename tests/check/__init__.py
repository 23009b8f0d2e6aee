"""Checks: rules on values, and the command on real servers."""
