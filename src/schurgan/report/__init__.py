"""The page, the charts and the animation of a run."""
