"""What makes the book and reports on it; nothing here needs pytest."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "book" / "_ext"))  # what the build uses
