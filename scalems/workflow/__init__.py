"""Tasks, their futures, the graph between them, and the calls that backends run.

Scripts take the public names from :mod:`scalems`. Nothing is imported here: the far side
imports this package too, and needs little of it.
"""
