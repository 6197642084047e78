"""The commands of `thrumcast`, one module each: `pipeline.commands.NAME` holds the click command `command`.

Importing such a module is cheap: whatever is heavy (torch, pyarrow, the MQTT client) is imported inside its functions.
"""
