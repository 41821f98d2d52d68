//! The command line as a user meets it: each subcommand against a server that runs, what it prints, how it ends, and what it says when it is used wrongly.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

mod failing;
mod groups;
mod harness;
mod measuring;
mod messages;
mod offsets;
mod topics;
