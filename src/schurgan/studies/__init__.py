"""The paper's tables and figures as data: rows of runs at a size that one has, run, scored and laid out."""

from __future__ import annotations

from schurgan.studies.study import Study, Trial, load_study, study_names

__all__ = ["Study", "Trial", "load_study", "study_names"]
