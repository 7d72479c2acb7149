"""Settings from the command line: composing them, checking them, naming what was changed."""
