"""Posterior to action."""
