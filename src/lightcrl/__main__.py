"""`python -m lightcrl`."""

from lightcrl.cli import main

if __name__ == "__main__":
    main()
