//! What the zones' own name servers say: before the CA is told to look, and when somebody asks what is wrong.

mod confirming;
