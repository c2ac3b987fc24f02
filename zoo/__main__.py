"""`python -m zoo` does what `zoo` does."""

from zoo.cli import main

if __name__ == "__main__":
    main()
