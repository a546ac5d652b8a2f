"""Texts as people read them."""
