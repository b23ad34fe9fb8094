"""Work in processes of its own: with limits, ended as a group, and never outliving the process that asked for
it.
"""

from tilewright.workers.client import Reply, Worker, WorkerError
from tilewright.workers.tool import run_tool

__all__ = ["Reply", "Worker", "WorkerError", "run_tool"]
