"""`python -m paramattr`: the command line."""

from paramattr.files.writing import signals


def main() -> None:
    """Run the command line; a signal stops it in one line, also while its modules are imported."""
    with signals():
        from paramattr.cli import main as run

        run()


if __name__ == "__main__":
    main()
