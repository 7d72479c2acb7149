"""Videos that other systems made, scored as our own rollouts are."""
