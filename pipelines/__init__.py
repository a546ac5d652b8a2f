"""The stages of a run, what runs them, and what a workspace can be asked."""
