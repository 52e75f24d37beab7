"""The command line: one file a subcommand, without logic of its own."""
