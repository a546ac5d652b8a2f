"""`checks`: the vocabulary of checkable constraints and answers, and the voter that counts them."""
