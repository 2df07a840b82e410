"""The command line `jacspec`."""

from jacspec.cli.command import main as main
