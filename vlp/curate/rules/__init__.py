"""Reasons to leave samples out, one file each; read `base.py` first."""
