"""Tests of vlp.towers."""
