"""The stages of a run: each a Beam pipeline over buckets, thin, with its logic in transforms/."""
