"""drtool brings a whole stack back to one moment, and proves beforehand that it can."""

__version__ = "0.1.0"
