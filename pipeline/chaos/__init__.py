"""The self-test: the installed service, a private broker, faults, and an auditor who knows what must come out.

`thrumcast chaos` and the tests of the promises run the same trials, in different sizes.
"""
