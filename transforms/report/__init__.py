"""The report of a dataset version: aggregates, plots and one self-contained HTML page."""
