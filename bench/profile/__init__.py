"""Where the server's CPU goes: by thread from /proc, by machine code from perf, by Python function from py-spy."""
