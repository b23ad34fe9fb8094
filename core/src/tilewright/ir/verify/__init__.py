"""The laws of the four stored forms as an executable specification: one small file per form.

A verifier returns nothing or raises `VerifyError`, which names the form, the place, what was found and the law.
"""

from tilewright.ir.verify.choice import verify_choice
from tilewright.ir.verify.groups import verify_cover, verify_group
from tilewright.ir.verify.module import verify_module
from tilewright.ir.verify.program import verify_program

__all__ = ["verify_choice", "verify_cover", "verify_group", "verify_module", "verify_program"]
