"""Scores of a run that carry everything that made them: `schurgan.evaluate("runs/esc10")`."""
