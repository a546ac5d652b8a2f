"""`posterior`: one calibrated regression over all voters, its parts in one place."""
