"""The configuration: tables (the only place of defaults), keys, rules, sources, and the specs made from it."""
