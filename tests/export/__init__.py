"""Tests of vlp.export."""
