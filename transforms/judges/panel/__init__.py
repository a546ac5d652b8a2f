"""The sequential panel: which judge is asked next, and when to stop."""
