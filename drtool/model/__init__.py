"""The nouns: values that every room uses and that know nothing of any room."""
