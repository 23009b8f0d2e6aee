"""PostgreSQL 15 and 18, as drtool meets them."""
