"""Pairs to votes, by asking an LLM."""
