"""An engine of the benchmarks that never gets ready: `python -m tests.product.slow_engine ENGINE FOLDER`."""

import sys
import time

if __name__ == "__main__":
    sys.stdin.readline()
    time.sleep(600)
