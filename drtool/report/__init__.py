"""Shows what verbs found and how far they are: text, JSON, pages, bars."""
