"""The verb verify: read back what is stored, and look at what was restored."""
