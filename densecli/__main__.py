"""`python -m densecli` is the `densecli` command."""

from densecli.cli.app import main

if __name__ == "__main__":
    main()
