import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the toy task, which subprocesses import too
