"""Training of the `rooms` world model: clips, teacher forcing, the two Lightning modules."""
