"""The command ``agssp``: one file a subcommand, without logic of its own.

A file has ``HELP`` (one line), ``EXAMPLE`` (a command line), ``configure(parser)`` and
``run(args)``, which imports what is large; and, where the defaults do not fit, ``GO_ON``, said
after Ctrl-C, and ``NEEDS_PLUGIN``. An underscore in its name is a blank in the command's.
"""
