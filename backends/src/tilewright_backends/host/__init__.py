"""The generated host function: a program's host tree as TIR."""
