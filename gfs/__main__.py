"""`python -m gfs`: the command line without its installed script. Nothing else lives here."""

from gfs.cli.app import main

if __name__ == "__main__":
    main()
