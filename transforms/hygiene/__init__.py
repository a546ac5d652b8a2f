"""What is wrong with a text or a set of texts: duplicates, language, sanity, personal data, contamination."""
