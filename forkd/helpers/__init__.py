"""The helper processes: exporter, keeper, runner, dispatcher, and what they are made of."""
