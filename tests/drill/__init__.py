"""The rehearsal: ledger, loss, judgement, and the demonstration."""
