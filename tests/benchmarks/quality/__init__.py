"""Statistical quality on real human labels: noise detection, fusion, and what curation is worth down the line."""
