"""What log.py is made of: the forms of a line, and where lines go."""
