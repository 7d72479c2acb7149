"""What the bases are composed of: selectors, compressors, placements, scorers, splits, likenesses."""
