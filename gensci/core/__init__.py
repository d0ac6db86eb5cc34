"""Protocols, registry, results, log-weights, schedules and seeded streams. torch and numpy only."""
