"""`python -m agent.runtime.cli`."""

from agent.runtime.cli.entry import main

main()
