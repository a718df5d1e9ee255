"""The `domainflow` command: a client of the public door, and the suite on one machine.

Standard output carries data only; whatever is meant for eyes goes to standard error.
"""
