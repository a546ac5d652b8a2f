"""Prompts to pairs."""
