"""The laws of the four stored forms as an executable specification: one small file per form.

A verifier returns nothing or raises `VerifyError`, which names the law, the form and the place.
"""

from tilewright.ir.verify.module import verify_module

__all__ = ["verify_module"]
