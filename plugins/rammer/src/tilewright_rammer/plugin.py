"""What Rammer registers through Tilewright's hooks.

A skeleton: it registers nothing yet, so installing this distribution changes no compilation.
"""

TILEWRIGHT_API = 1
