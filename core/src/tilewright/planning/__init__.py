"""Planning: the slots' requests and defaults, and what carries them out.

The core owns representation, mechanics and legality; each slot owns one decision. Services return immutable
candidates, and nothing is committed until the planner returns.
"""
