"""Programs that run inside a node in place of Bottlerocket's own.

They start by path with the standard library only, because a node cannot see the
local cloud's environment.
"""
