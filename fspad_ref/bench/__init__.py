"""Measuring: acceptance, speedup, and with what confidence."""
