"""Seeing: figures (style, drawer, instruments), token strips, and the explorer for notebooks."""
