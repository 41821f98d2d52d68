//! Where a process keeps what has to last, and opening it.

use super::RunError;
use crate::config::Config;
use sluice_env::Env;
use sluice_store::{FlushMode, RecoveryProgress, Store, StoreOptions};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Below the data directory: the store of a name server without a broker. A directory of its own, so that a broker of another process can have the rest.
const NAMING: &str = "naming";
/// A name server writes a few values a day; two of these files are what it takes on disk.
const NAMING_SEGMENT_BYTES: u64 = 1 << 20;

/// Clock, files and threads for a directory.
type EnvOf = dyn Fn(&Path) -> io::Result<Env> + Send + Sync;

/// The data directory, and what files and clock are there.
#[derive(Clone)]
pub(super) struct Places {
    data_dir: PathBuf,
    env: Arc<EnvOf>,
}

impl Places {
    /// On this machine's disk.
    pub(super) fn real(config: &Config) -> Self {
        Self::with(config, sluice_env::real::env)
    }

    /// On a disk of the caller's.
    pub(super) fn with(config: &Config, env: impl Fn(&Path) -> io::Result<Env> + Send + Sync + 'static) -> Self {
        Self { data_dir: config.data_dir.clone(), env: Arc::new(env) }
    }

    /// Clock, files and threads for that directory.
    pub(super) fn env(&self, dir: &Path) -> Result<Env, RunError> {
        (self.env)(dir).map_err(|source| RunError::DataDir { dir: dir.to_owned(), source })
    }

    /// Opens a store and recovers. Blocks for as long as that takes.
    pub(super) fn open(&self, dir: &Path, options: StoreOptions, progress: &RecoveryProgress) -> Result<(Env, Arc<Store>), RunError> {
        let env = self.env(dir)?;
        let store = Store::open_watched(env.clone(), options, progress).map_err(|source| RunError::Store { dir: dir.to_owned(), source })?;
        Ok((env, store))
    }

    /// The store of a name server without a broker: what it answers success to survives a power cut.
    pub(super) fn open_naming(&self, progress: &RecoveryProgress) -> Result<Arc<Store>, RunError> {
        let options = StoreOptions { segment_bytes: NAMING_SEGMENT_BYTES, flush: FlushMode::Sync, key_index: false, ..StoreOptions::default() };
        self.open(&self.data_dir.join(NAMING), options, progress).map(|(_, store)| store)
    }
}
