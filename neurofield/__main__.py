import sys

from neurofield.cli import main

if __name__ == "__main__":
    sys.exit(main())
