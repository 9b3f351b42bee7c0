"""The version of the schemas: raised whenever a column, its type or its meaning changes."""

SCHEMA_VERSION = 1
