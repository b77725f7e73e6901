"""The ClickHouse engine as a child process behind ClickHouse's own HTTP interface, so that one client serves both."""
