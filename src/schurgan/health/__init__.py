"""Whether a run is healthy. Standard library alone."""
