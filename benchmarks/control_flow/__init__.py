"""Models with loops, branches and recursion, beside other engines."""
