//! The system tests: our real binaries with Postgres, Pebble and DNS, a module per topic.
