"""The helper processes: exporter, keeper, runner, and what they are made of."""
