"""The bytes between source and repository: batches, pages, and what changed among them."""
