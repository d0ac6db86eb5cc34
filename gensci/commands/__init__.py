"""One typed, documented function per command; `gensci.__main__` finds them by name."""
