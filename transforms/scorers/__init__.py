"""Pairs to votes, without an LLM call."""
