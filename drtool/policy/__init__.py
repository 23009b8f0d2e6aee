"""What was promised: the typed values of a policy file, and the secrets it refers to."""
