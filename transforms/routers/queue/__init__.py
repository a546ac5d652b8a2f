"""The queue for people: from values to a choice of pairs under a budget."""
