"""The tile IR: four stored forms (Module, groups, tile choices, Program), all immutable.

`expr` is shared by all forms: integer extents and indices, and the scalar bodies of operators.
"""
