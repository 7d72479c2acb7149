"""What touches the operating system: files that appear whole, clocks, readings of memory."""
