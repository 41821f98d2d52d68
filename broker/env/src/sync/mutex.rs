//! A mutex for simulated and other threads.

use crate::sim::threads::{self, Current, WaitList, Waits};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    panic::Location,
    sync::atomic::{AtomicUsize, Ordering},
};

/// As `parking_lot`'s.
pub struct Mutex<T: ?Sized> {
    waiting: WaitList,
    /// The simulated thread that holds it, plus one; 0: none. Only for telling a deadlock.
    holder: AtomicUsize,
    inner: parking_lot::Mutex<T>,
}

/// Holds the mutex until dropped.
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// None only while a condition variable waits with it.
    inner: Option<parking_lot::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// An open mutex.
    pub const fn new(value: T) -> Self {
        Self { waiting: WaitList::new(), holder: AtomicUsize::new(0), inner: parking_lot::Mutex::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until it is free and takes it.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let inner = match threads::before_lock() {
            Some(id) => self.take(id, Location::caller()),
            None => threads::outside(|| self.inner.try_lock_for(threads::PATIENCE), || self.inner.lock()),
        };
        MutexGuard { mutex: self, inner: Some(inner) }
    }

    fn take(&self, id: usize, place: &'static Location<'static>) -> parking_lot::MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.inner.try_lock() {
                self.holder.store(id + 1, Ordering::Relaxed);
                return guard;
            }
            let holder = self.holder.load(Ordering::Relaxed).checked_sub(1);
            self.waiting.wait(&threads::current().expect(SIMULATED), Waits::lock(holder, place), None);
        }
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let me = threads::before_lock();
        let inner = self.inner.try_lock()?;
        self.holder.store(me.map_or(0, |id| id + 1), Ordering::Relaxed);
        Some(MutexGuard { mutex: self, inner: Some(inner) })
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// For a wait: lets go of the mutex.
    pub(super) fn release(&mut self) {
        self.mutex.holder.store(0, Ordering::Relaxed);
        self.inner = None;
        self.mutex.waiting.wake_all();
    }

    /// After it.
    pub(super) fn take_again(&mut self, me: &Current, place: &'static Location<'static>) {
        self.inner = Some(self.mutex.take(me.id(), place));
    }

    /// For a wait outside of simulated threads.
    pub(super) fn real(&mut self) -> &mut parking_lot::MutexGuard<'a, T> {
        self.inner.as_mut().expect(HELD)
    }
}

const SIMULATED: &str = "only a simulated thread has a number";

const HELD: &str = "a guard holds its mutex whenever its owner runs";

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.inner.is_some() {
            self.release();
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect(HELD)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
