"""`drtool sync`: a tree, or a bucket, kept as a plain copy in a bucket, one object a file."""
