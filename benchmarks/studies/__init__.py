"""Research scripts. They train or judge models over hours and do not ship in the wheel.

pretrain      makes the model that ships with the package (`make model`)
plant_trial   weeks of a simulated plant through engine and alarms
discriminator which columns tell simulated windows from real ones
rigs          the shipped model on recordings of rigs that it has never seen
sim_to_real   how far the simulator carries over to other machines and to recordings
sim_data      the data sets that these share
"""
