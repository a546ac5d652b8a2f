"""prefine: preference-data curation."""
