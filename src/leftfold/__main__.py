"""`python -m leftfold` is the command line."""

from leftfold.cli import main

main()
