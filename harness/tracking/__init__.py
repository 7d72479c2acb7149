"""W&B: a run's mirror, and the workspace that compares runs."""
