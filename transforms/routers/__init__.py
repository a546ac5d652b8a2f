"""Which pairs a human is asked about, under a budget."""
