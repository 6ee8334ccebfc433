"""Seeing: figures, token strips, the demo. Only notebooks and the command line import from here."""
