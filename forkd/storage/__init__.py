"""Where files are kept: names, the confined tree, partials, paying for changes, durability."""
