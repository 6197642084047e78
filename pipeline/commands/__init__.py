"""The commands of `thrumcast`, one module each: `pipeline.commands.NAME` defines the click command `command`.

Importing a command is cheap: heavy libraries (torch, pyarrow, the MQTT client) are imported inside its functions.
Four modules are no commands: `common` (options, Console), `logs` (logging of long-running commands), `board` (the
live table of the demo) and `features_plot` (the picture of a recording).
"""
