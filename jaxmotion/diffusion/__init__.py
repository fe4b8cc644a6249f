"""The mathematics of diffusion: schedules, the process, samplers, guidance, inversion, loss. No parameters."""
