"""What runs stages: Beam, checkpoints, requests, progress, and the order of a run."""
