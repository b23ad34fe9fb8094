"""Work in processes of its own: with limits, ended as a group, and never outliving the process that asked for
it.
"""

from tilewright.workers.client import Reply, Worker, WorkerError
from tilewright.workers.idle import Post
from tilewright.workers.side import Crew, replies
from tilewright.workers.tool import run_tool
from tilewright.workers.turns import BusyError, turn

__all__ = ["BusyError", "Crew", "Post", "Reply", "Worker", "WorkerError", "replies", "run_tool", "turn"]
