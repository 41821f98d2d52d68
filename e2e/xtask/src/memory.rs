//! What a process has in memory.

use anyhow::{Context, Result};
use std::fs;

/// A process's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All that is resident (VmRSS).
    pub(crate) resident: u64,
    /// What belongs to the process alone (RssAnon). The pages of the log that it has mapped are left out: they grow with what is stored, and the kernel takes
    /// them back when it needs them.
    pub(crate) own: u64,
}

impl Memory {
    /// A running process's.
    pub(crate) fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/status");
        Self::parse(&fs::read_to_string(&path).with_context(|| format!("reading {path}: the process may have ended, see its log"))?)
    }

    fn parse(status: &str) -> Result<Self> {
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("/proc has no {name} of a running process"))?;
            let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("reading {name}{line}"))?;
            anyhow::Ok(kibibytes * 1024)
        };
        Ok(Self { resident: bytes("VmRSS:")?, own: bytes("RssAnon:")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes_and_a_process_without_any_is_an_error() {
        let status = "Name:\tsluice\nVmRSS:\t   20480 kB\nRssAnon:\t    1024 kB\nRssFile:\t   19456 kB\n";
        assert_eq!(Memory::parse(status).unwrap(), Memory { resident: 20480 * 1024, own: 1 << 20 });
        assert!(Memory::parse("Name:\tsluice\nState:\tZ (zombie)\n").unwrap_err().to_string().contains("VmRSS"));
    }
}
