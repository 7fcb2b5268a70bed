//! A version takes over from the one before: what that one's programs say still runs on the new schema, and what it
//! left in the database is carried to its end. `tests/releases` has both, from real runs.

mod acme;
mod left;
mod statements;
