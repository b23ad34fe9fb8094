"""Running a compiled program: the `Executable`, its run-time checks, and what a backend's loader
must give.
"""
