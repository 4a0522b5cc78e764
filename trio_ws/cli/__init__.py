"""The commands: a file for each kind, in the table of `main.py`. What a command prints is what it is for."""
