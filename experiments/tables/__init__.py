"""Tables: definition, sweep, cache, statistics, rendering."""
