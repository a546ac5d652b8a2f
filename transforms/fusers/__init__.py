"""Votes to one posterior."""
