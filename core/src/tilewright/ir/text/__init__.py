"""Text of the four stored forms. `print_*` write it, `parse_module` and `parse_expr` read it back.

The text is deterministic and meant for people and for diffs: one line per read, state and write, locations as
trailing comments. `parse_module(print_module(m)) == m` up to locations.
"""

from tilewright.ir.text.choices import print_choice
from tilewright.ir.text.exprs import Scope, print_expr
from tilewright.ir.text.groups import print_cover, print_group
from tilewright.ir.text.lexer import ParseError
from tilewright.ir.text.modules import print_function, print_module
from tilewright.ir.text.ops import print_op, print_region
from tilewright.ir.text.parse_exprs import parse_expr
from tilewright.ir.text.parser import parse_module
from tilewright.ir.text.programs import print_program

__all__ = [
    "ParseError",
    "Scope",
    "parse_expr",
    "parse_module",
    "print_choice",
    "print_cover",
    "print_expr",
    "print_function",
    "print_group",
    "print_module",
    "print_op",
    "print_program",
    "print_region",
]
