"""Reward heads: cross-fitted Bradley-Terry models on frozen embeddings, and what they train on."""
