"""What every store and every source must do, whichever it is."""
