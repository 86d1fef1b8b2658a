"""Programs that run inside a node in place of Bottlerocket's own.

They are started by path with the standard library only, because a node sees
nothing of the environment that the local cloud itself runs in.
"""
