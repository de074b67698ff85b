"""Judges: models that grade the subject's open answers by a rubric. Their scores count once they pass a gate."""
