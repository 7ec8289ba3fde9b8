"""`python -m densecli` is the `densecli` command."""

import sys

# `-m` puts the current folder first, where a photo project may well have a queue.py or a random.py of its own, which
# Python's own modules would then import.
if not sys.flags.isolated and not getattr(sys.flags, "safe_path", False):
    sys.path.append(sys.path.pop(0))  # last: densecli itself may be there

from densecli.cli.app import main

if __name__ == "__main__":
    main()
