"""Who answers LLM requests."""
