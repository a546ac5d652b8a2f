"""Files to prompts, pairs and votes."""
