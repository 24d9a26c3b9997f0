"""Results that are kept: what calls gave, by what they were made of.

A store is a folder with one SQLite database and files for large values. A call is known
by its *key*, a digest of the function's code, the arguments by content, and the
environment's content fingerprint; a result is taken from the store only if all are equal.
"""
