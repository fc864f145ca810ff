"""What the tests on a GPU share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_S = 60
