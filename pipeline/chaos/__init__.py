"""The self-test: the installed service, a private broker, injected faults, and an audit of the resulting archive.

`thrumcast chaos` and the tests of the promises run the same trials in different sizes. `plan` lists the trials,
`ground` is the world of one trial, `process` the service as a process, `plant` its senders, `audit` the comparison with
an uninterrupted run; `trials`, `trials_data` and `trials_disk` contain the trials.
"""
