"""How long, how much processor, how much memory: drtool beside its peers, on one machine in one run."""
