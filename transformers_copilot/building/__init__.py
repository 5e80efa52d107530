"""A new Copilot beside a Pilot: its configuration, its first weights, and a pair as a plain model again."""
