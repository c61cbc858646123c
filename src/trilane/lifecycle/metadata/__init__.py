"""The facts of the life cycle, kept in a database: what was applied, made, deployed, run and read."""
