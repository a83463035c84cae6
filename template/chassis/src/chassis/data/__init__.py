"""The database: pool and units of work, named queries, tenancy, roles and migrations."""
