"""Emitters: from a kernel's specification and a tile choice to TIR, one package per kind of target."""
