"""The `gollm` command: thin front doors that parse options, call the library, and print.

Each command is a module with `Options`, the dataclass of what it takes (its docstring opens the help), and
`run(options)`, which returns the exit status, or None for success. Results go to stdout, everything else to stderr.
"""
