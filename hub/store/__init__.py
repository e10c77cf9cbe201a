"""The hub's database: schema, engine, migrations, queries."""
