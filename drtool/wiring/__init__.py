"""Builds the parts from the policy and hands them to the verbs."""
