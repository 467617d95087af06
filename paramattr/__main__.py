"""`python -m paramattr`: the command line."""

from paramattr.cli import main

if __name__ == "__main__":
    main()
