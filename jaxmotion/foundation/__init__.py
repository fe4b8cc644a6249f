"""Ground of the house: types, errors, atomic files, configs as JSON; knows nothing of networks or motion."""
