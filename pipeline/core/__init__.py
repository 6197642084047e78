"""The pure part: no clock, no file, no socket, no thread, no log. State in, state out."""
