"""Completion events: a journal that commits with each change, and the reader that tells of it."""
