//! The subcommands of sluice for people.
#![forbid(unsafe_code)]
