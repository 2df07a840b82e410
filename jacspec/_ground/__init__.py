"""What every room stands on: checks and messages, pytrees, precision, files, LAPACK, arithmetic."""
