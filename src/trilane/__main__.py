"""`python -m trilane` is the command `trilane`."""

from trilane.apps.cli import main

if __name__ == "__main__":
    main()
