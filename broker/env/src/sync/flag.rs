//! A flag that each thread has for itself.

use std::{cell::Cell, thread::LocalKey};

/// A flag of the calling thread. All simulated threads run on one thread of the operating system, so a bare `thread_local!` would be one flag for all of them.
pub struct ThreadFlag {
    key: &'static LocalKey<Cell<bool>>,
}

impl ThreadFlag {
    /// The flag kept under that key, which nothing else may use.
    #[must_use]
    pub const fn new(key: &'static LocalKey<Cell<bool>>) -> Self {
        Self { key }
    }

    /// The calling thread's flag.
    #[must_use]
    pub fn get(&self) -> bool {
        #[cfg(feature = "sim-threads")]
        if let Some(me) = crate::sim::threads::current() {
            return me.flag(self.place());
        }
        self.key.get()
    }

    /// Sets the calling thread's flag; what it was before.
    pub fn replace(&self, value: bool) -> bool {
        #[cfg(feature = "sim-threads")]
        if let Some(me) = crate::sim::threads::current() {
            return me.replace_flag(self.place(), value);
        }
        self.key.replace(value)
    }

    /// What tells flags apart. An address, so it is only ever looked up.
    #[cfg(feature = "sim-threads")]
    fn place(&self) -> usize {
        std::ptr::from_ref(self.key).addr()
    }
}
