"""The workspace on disk: parts, checkpoints, memo."""
