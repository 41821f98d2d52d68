//! Locks, and waiting for other threads.
//!
//! In the product these are `parking_lot`'s own. With the feature `sim-threads`, which only tests turn on, they are wrappers that know whether a simulated thread
//! calls: then who would have to wait gives way to the [scheduler](crate::sim::threads) instead of blocking the operating system's thread, and timeouts take
//! virtual time. Code that may run on a simulated thread waits by nothing else than these.

mod flag;
mod oneshot;

pub use flag::ThreadFlag;
pub use oneshot::{Receiver, RecvError, Sender, oneshot};

/// Whether these are the wrappers, which are larger.
pub const SIMULATED: bool = cfg!(feature = "sim-threads");

#[cfg(not(feature = "sim-threads"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult};

#[cfg(feature = "sim-threads")]
mod condvar;
#[cfg(feature = "sim-threads")]
mod mutex;
#[cfg(feature = "sim-threads")]
mod rwlock;

#[cfg(feature = "sim-threads")]
pub use condvar::{Condvar, WaitTimeoutResult};
#[cfg(feature = "sim-threads")]
pub use mutex::{Mutex, MutexGuard};
#[cfg(feature = "sim-threads")]
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
