"""What clients can ask for: a function per action, in one table."""
