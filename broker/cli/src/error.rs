//! What a command ends with when it fails.

use sluice_client::ClientError;
use std::{io, process::ExitCode};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A server said no, or could not be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// What was asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// No server could be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// The reader of our output has had enough. That is no failure.
    #[error("the output was closed")]
    PipeClosed,
}

impl CliError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::PipeClosed => 0,
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Unreachable(_) => 4,
            Self::Failed(_) => 1,
            Self::Client(error) if error.is_not_found() => 3,
            Self::Client(error) if error.is_unreachable() => 4,
            Self::Client(ClientError::Name(_) | ClientError::NoNameServer | ClientError::Message(_)) => 2,
            Self::Client(_) => 1,
        })
    }

    /// What writing to standard output ended with.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::PipeClosed } else { Self::Failed(format!("standard output cannot be written: {error}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_missing_from_unreachable() {
        let missing = ClientError::TopicNotFound { topic: "t".into(), namesrv: "n".into() };
        let dead = ClientError::Unreachable { addr: "a".into(), reason: "r".into() };
        assert_eq!(CliError::from(missing).exit_code(), ExitCode::from(3));
        assert_eq!(CliError::from(dead).exit_code(), ExitCode::from(4));
        assert_eq!(CliError::Usage(String::new()).exit_code(), ExitCode::from(2));
    }
}
