"""`python -m jacspec` is the command `jacspec`."""

from jacspec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
