"""Dataset versions: rows, splits, files, explanation, comparison and proof."""
