"""ONNX's reference evaluator, a node at a time: for constant folding, and for what nothing else can run.

The evaluator's own `Loop` and `Scan` are not what ONNX's text says: they join where they should stack, know no axes,
and make no trip where no condition is given. So control flow is written out here; the evaluator runs the nodes inside.
"""

from tilewright.frontend.reference.control import reference_node
from tilewright.frontend.reference.names import captured, graphs, reads
from tilewright.frontend.reference.node import line

__all__ = ["captured", "graphs", "line", "reads", "reference_node"]
