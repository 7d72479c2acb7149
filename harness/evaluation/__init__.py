"""One evaluation, or several by one command: the Lightning predict loop and what surrounds it."""
