"""Plans without a model: what policies bring back along a path."""
