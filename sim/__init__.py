"""A simulated plant: vibration with known truth, for demonstrations, tests and first models.

* Physics: `signals` (shaft, gears, flow, mains), `impacts` (bearings), `components` (how much of it a fault adds).
* A machine: `population` (what it is made of), `life` (how it fails), `events`, `sensors` (sensor faults),
  `detectable` (when a fault can be told), `machine` (all of it together, frame by frame).
* A plant: `recipe` (how it is drawn), `scenario` (a TOML file), `fleet` (its machines as streams of blocks).
* Output: `channel` (a bad network), `publish` (to a broker or into recordings), `archive` (features into an archive).
* Pictures: `analyst` (spectra and trends), `plots`.

The detector never imports any of it.
"""
