"""Algebraic rewrites: small named functions, each with an exactness class and a property test by interpretation."""
