//! One value handed from one thread to another that waits for it.

use super::{Condvar, Mutex};
use std::{sync::Arc, time::Duration};

/// Why no value came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvError {
    /// The sender is gone.
    Gone,
    /// Not in that time.
    Timeout,
}

struct Slot<T> {
    value: Option<T>,
    /// The sender has sent or is gone.
    over: bool,
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
}

/// The end that sends, once.
pub struct Sender<T>(Arc<Shared<T>>);

/// The end that waits.
pub struct Receiver<T>(Arc<Shared<T>>);

/// Both ends, in place of a channel of the standard library, whose wait no simulation could see.
#[must_use]
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { slot: Mutex::new(Slot { value: None, over: false }), changed: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Hands the value over. When nobody waits any more it is dropped with the receiver.
    pub fn send(self, value: T) {
        self.0.slot.lock().value = Some(value);
        // Dropping wakes.
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.slot.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Waits for the value; `None` when the sender went without sending.
    #[must_use]
    pub fn recv(self) -> Option<T> {
        let mut slot = self.0.slot.lock();
        while !slot.over {
            self.0.changed.wait(&mut slot);
        }
        slot.value.take()
    }

    /// The same, for at most that time.
    pub fn recv_timeout(self, timeout: Duration) -> Result<T, RecvError> {
        let mut slot = self.0.slot.lock();
        // Nobody but the sender notifies, and `parking_lot` wakes nobody without reason: one wait is the whole time.
        if !slot.over {
            self.0.changed.wait_for(&mut slot, timeout);
        }
        match slot.over {
            true => slot.value.take().ok_or(RecvError::Gone),
            false => Err(RecvError::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_arrives_a_lost_sender_is_told_and_a_wait_ends() {
        let (sender, receiver) = oneshot();
        sender.send(7);
        assert_eq!(receiver.recv(), Some(7));
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.recv(), None);
        let (_sender, receiver) = oneshot::<u8>();
        assert_eq!(receiver.recv_timeout(Duration::from_millis(1)), Err(RecvError::Timeout));
    }
}
