"""The paper's tables and figures as data: rows of runs at a size that one has, run, scored and laid out."""
