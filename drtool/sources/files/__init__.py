"""All that drtool knows of trees of application files: walking, reading, judging and placing them."""
