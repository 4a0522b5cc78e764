"""PostgreSQL: every statement, the one door to threads, migrations, and a private server."""
