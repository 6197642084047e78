"""The simulated plant: vibration with known truth, for people, tests and first models.

`signals` and `impacts` hold the physics, `population` what a machine is made of, `life` how it fails,
`machine` puts them together, `fleet` is a plant of machines, `channel` a bad network, and `publish`
hands the readings to a broker or writes recordings. The detector never imports any of it.
"""
