"""Environments on other hosts: the code that runs there is the code that runs here.

``link`` is this side. It ships ``runtime``, which ``boot`` puts in place there, and talks to
``agent``, which does there what is done here for this machine.
"""
