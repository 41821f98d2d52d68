//! A lock for many readers or one writer, for simulated and other threads.

use crate::sim::threads::{self, WaitList, Waits};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    panic::Location,
};

/// As `parking_lot`'s, except that simulated writers have no priority over readers: the scheduler's choice decides.
pub struct RwLock<T: ?Sized> {
    waiting: WaitList,
    inner: parking_lot::RwLock<T>,
}

/// Holds the lock for reading until dropped.
pub struct RwLockReadGuard<'a, T: ?Sized> {
    waiting: &'a WaitList,
    inner: Option<parking_lot::RwLockReadGuard<'a, T>>,
}

/// Holds the lock for writing until dropped.
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    waiting: &'a WaitList,
    inner: Option<parking_lot::RwLockWriteGuard<'a, T>>,
}

impl<T> RwLock<T> {
    /// An open lock.
    pub const fn new(value: T) -> Self {
        Self { waiting: WaitList::new(), inner: parking_lot::RwLock::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits until nobody writes.
    #[track_caller]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let inner = self.take(Location::caller(), || self.inner.try_read(), || self.inner.try_read_for(threads::PATIENCE), || self.inner.read());
        RwLockReadGuard { waiting: &self.waiting, inner: Some(inner) }
    }

    /// Waits until nobody reads or writes.
    #[track_caller]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let inner = self.take(Location::caller(), || self.inner.try_write(), || self.inner.try_write_for(threads::PATIENCE), || self.inner.write());
        RwLockWriteGuard { waiting: &self.waiting, inner: Some(inner) }
    }

    fn take<G>(&self, place: &'static Location<'static>, now: impl Fn() -> Option<G>, soon: impl FnOnce() -> Option<G>, ever: impl FnOnce() -> G) -> G {
        if threads::before_lock().is_none() {
            return threads::outside(soon, ever);
        }
        loop {
            if let Some(guard) = now() {
                return guard;
            }
            let me = threads::current().expect("nobody else waits in virtual time");
            self.waiting.wait(&me, Waits::lock(None, place), None);
        }
    }
}

const HELD: &str = "a guard holds its lock until it is dropped";

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        self.waiting.wake_all();
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        self.waiting.wake_all();
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
