"""The rehearsal: writes that are acknowledged, a ledger outside, and what of it came back."""
