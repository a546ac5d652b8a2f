"""A dataset version to the files a trainer reads."""
